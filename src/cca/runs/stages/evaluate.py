"""The evaluate stage: base and patched on the same test problems and retention sets, and the controls beside them.

The test split is read here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite
from statistics import median
from typing import Any

import torch
from transformers import PreTrainedModel

from cca.amplify.amplify import Amplified
from cca.amplify.settings import AmplifyConfig, BudgetConfig
from cca.circuits.circuit import Circuit, shares
from cca.circuits.random_circuits import random_circuit
from cca.evaluation.accuracy import Results, comparison, per_template, summary
from cca.evaluation.planted_pivots import localisation
from cca.files import Row, read_sealed, write_sealed
from cca.gradients.sampled_likelihood import Text
from cca.models.anatomy.anatomy import Anatomy
from cca.models.anatomy.components import KINDS
from cca.patches.patch import Patch
from cca.pivots.grader import Grader
from cca.pivots.pivot import Pivot
from cca.problems.task import Task, halves
from cca.runs.folder.measurements import UNTOUCHED, weights_key
from cca.runs.folder.stage_files import StageFiles
from cca.runs.folder.stage_inputs import CONTROL
from cca.runs.progress.progress import RunProgress
from cca.runs.progress.trackers import Track
from cca.runs.stages.amplify import AMPLIFY, SUMMARY, train
from cca.runs.stages.answers import Answering
from cca.runs.stages.validate import Validator, make_probe

FILE = "evaluation.json"
FORMAT = "cca.evaluation"
NO_BUDGET = BudgetConfig(points=100.0, drift=1e9)


def run_evaluate(
    files: StageFiles,
    patch: Patch,
    circuit: Circuit,
    pivots: Sequence[Pivot],
    model: PreTrainedModel,
    anatomy: Anatomy,
    task: Task,
    grader: Grader,
    answering: Answering,
    settings: AmplifyConfig,
    *,
    controls: int,
    texts: Sequence[Text],
    max_new_tokens: int,
    seed: int,
    progress: RunProgress,
    track: Track,
) -> None:
    """Write ``evaluation.json``: base and patched on the test split, and ``controls`` random circuits."""
    with files.timed():
        with progress.work("evaluate: base and patched", None):
            tested = _Tested(model, grader, answering, task, max_new_tokens, seed, files.note)
            weights = weights_key((e.parameter, e.axis, e.indices, e.before, e.after) for e in patch.edits)
            with patch.applied(model):
                measured = tested.against_base(weights)
        measured |= {
            "share": shares(circuit, anatomy, settings.rows),
            "circuit": {"components": len(circuit), "method": circuit.method},
            "anatomy": {
                "layers": [
                    {kind: anatomy.count(layer.index, kind) for kind in KINDS} for layer in anatomy.layers
                ]
            },
            "pivots": {"count": len(pivots)},
        }
        planted = localisation(pivots, task.train, grader)
        if planted:
            measured["pivots"]["planted"] = planted
    with files.timed("controls"):
        free = settings.model_copy(
            update={"budget": NO_BUDGET}
        )  # nothing a control costs disqualifies a step

        def validator() -> Validator:
            return Validator(
                model,
                grader,
                answering,
                task.validation,
                task.retention,
                NO_BUDGET,
                max_new_tokens,
                files.note,
            )

        def train_control(control: Circuit, judge: Validator, what: str) -> Amplified:
            return train(
                files, model, anatomy, control, pivots, free, judge,
                texts=texts, seed=seed, what=what, kept_in=CONTROL, progress=progress, track=track,
            )  # fmt: skip

        measured["controls"] = _controls(
            files, anatomy, circuit, tested, controls, seed, validator, train_control
        )
    write_sealed(files / FILE, FORMAT, 1, {"made_from": files.made_from, **measured})


class _Tested:
    """The base's results, taken while the model is untouched, and how any edit compares with them."""

    def __init__(
        self,
        model: PreTrainedModel,
        grader: Grader,
        answering: Answering,
        task: Task,
        max_new_tokens: int,
        seed: int,
        note: Callable[[str], None],
    ) -> None:
        self.answering, self.task, self.max_new_tokens, self.seed = answering, task, max_new_tokens, seed
        self.reported = {name: halves(problems)[1] for name, problems in task.retention.items()}
        self.probes = {
            name: make_probe(model, problems, grader, note) for name, problems in self.reported.items()
        }
        self.base = self._test(UNTOUCHED)
        self.base_retention = self._retention(UNTOUCHED)

    def against_base(self, weights: str | None = None) -> Row:
        """The model as it stands, held against the base. Accuracies are fractions, gains percentage points.

        ``weights`` says what it holds (`cca.runs.folder.measurements`); without it nothing is kept for a resumed run.
        """
        seed, patched = self.seed, self._test(weights)
        retention = self._retention(weights)
        seen = self.task.seen_templates
        unseen = {problem.template for problem in self.base.problems} - seen
        drifts = {
            name: (self.answering.drift(probe, weights), probe.tokens) for name, probe in self.probes.items()
        }
        tokens = sum(count for _, count in drifts.values())
        return {
            "base": summary(self.base, seed),
            "patched": summary(patched, seed),
            "gain": comparison(self.base, patched, seed),
            "seen_templates": _part(self.base, patched, seen, seed),
            "unseen_templates": _part(self.base, patched, unseen, seed),
            "templates": [
                {**row, "seen": row["template"] in seen} for row in per_template(self.base, patched)
            ],
            "drift": {
                "kl": sum(kl * count for kl, count in drifts.values()) / tokens if tokens else 0.0,
                "tokens": tokens,
            },
            "retention": {
                name: {
                    "base": self.base_retention[name].accuracy,
                    "patched": retention[name].accuracy,
                    **_retention_change(self.base_retention[name], retention[name], seed),
                    "problems": len(retention[name].problems),
                    "drift": drifts[name][0],
                }
                for name in retention
            },
        }

    def _test(self, weights: str | None) -> Results:
        return self.answering.answers(self.task.test, self.max_new_tokens, weights)

    def _retention(self, weights: str | None) -> dict[str, Results]:
        return self.answering.by_skill(self.reported, weights)


def _part(base: Results, patched: Results, templates: set[str], seed: int) -> Row | None:
    before, after = base.of_templates(templates), patched.of_templates(templates)
    if not before.problems:
        return None
    return {
        "problems": len(before.problems),
        "templates": len({problem.template for problem in before.problems}),
        "base": before.accuracy,
        "patched": after.accuracy,
        "gain": comparison(before, after, seed),
    }


def _retention_change(base: Results, patched: Results, seed: int) -> Row:
    compared = comparison(base, patched, seed)
    return {key: compared[key] for key in ("points", "interval", "p_value")}


def _controls(
    files: StageFiles,
    anatomy: Anatomy,
    circuit: Circuit,
    tested: _Tested,
    count: int,
    seed: int,
    make_validator: Callable[[], Validator],
    train_control: Callable[[Circuit, Validator, str], Amplified],
) -> Row:
    """Random circuits of the same size and mix, amplified on the same pivots with the same settings and no budget.

    ``matched`` is the first validated step at which a control is as accurate as the patch on the validation data:
    what the same gain costs there. Its drift, like the patch's beside it, is that of the validation halves.
    """
    if not count:
        return {}
    summary = read_sealed(files / SUMMARY, AMPLIFY, 1)
    target = next(r["validation"] for r in summary["history"] if r["step"] == summary["best_step"])
    generator = torch.Generator().manual_seed(seed)
    draws = []
    validator = make_validator()
    for draw in range(count):
        control = random_circuit(anatomy, circuit, generator)
        amplified = train_control(control, validator, f"control: random circuit {draw + 1} of {count}")
        draws.append(_control_row(tested, amplified, control, target))
    matched = [draw["matched"]["drift"] for draw in draws if draw["matched"]]
    row: dict[str, Any] = {
        "draws": draws,
        "gain": {"points": median(draw["gain"]["points"] for draw in draws)},
        "drift": {"kl": median(draw["drift"]["kl"] for draw in draws)},
        "matched": {
            "reached": len(matched),
            "drift": median(matched) if matched else None,
            "patch": target["drift"],
        },
    }
    return {"random": row}


def _control_row(tested: _Tested, amplified: Amplified, circuit: Circuit, target: Row) -> Row:
    amplified.trained.load(amplified.rows)
    trained = amplified.trained
    rows = (
        (*key, trained.rows[key].indices, trained.before[key], after) for key, after in amplified.rows.items()
    )
    with trained.written():
        measured = tested.against_base(weights_key(rows))
    reached = next(
        (
            record
            for record in amplified.history
            if record.step
            and record.validation.accuracy >= target["accuracy"]
            and isfinite(record.validation.drift)
        ),
        None,
    )
    keep = ("patched", "gain", "unseen_templates", "drift", "retention")
    return {
        **{key: measured[key] for key in keep},
        "best_step": amplified.best_step,
        "steps": amplified.history[-1].step,
        "matched": {"step": reached.step, "drift": reached.validation.drift} if reached else None,
        "circuit": circuit.fingerprint,
    }
