"""The evaluate stage: base and patched on the same test problems and retention sets, and their controls.

The test split is read here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite
from statistics import median

import torch
from transformers import PreTrainedModel

from cca.amplify.amplify import Amplified
from cca.amplify.settings import AmplifyConfig, BudgetConfig
from cca.circuits.circuit import Circuit, random_circuit, shares
from cca.evaluation.accuracy import localisation
from cca.evaluation.answers import Answering, weights_key
from cca.evaluation.validation import AgainstBase, Validator
from cca.files import Row, read_sealed, write_sealed
from cca.gradients.sampled_likelihood import Text
from cca.models.anatomy.anatomy import Anatomy
from cca.models.anatomy.components import KINDS
from cca.patches.patch import Patch
from cca.pivots.pivot import Pivot
from cca.problems.task import Task
from cca.runs.folder.stage_files import CONTROL, StageFiles
from cca.runs.stages.amplify import AMPLIFY, SUMMARY, train

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
    answering: Answering,
    settings: AmplifyConfig,
    *,
    controls: int,
    texts: Sequence[Text],
    max_new_tokens: int,
    seed: int,
) -> None:
    """Write ``evaluation.json``: base and patched on the test split, and ``controls`` random circuits."""
    with files.timed():
        with files.progress.work("evaluate: base and patched", None):
            tested = AgainstBase(model, answering, task, max_new_tokens, seed, files.note)
            weights = weights_key((e.parameter, e.axis, e.indices, e.before, e.after) for e in patch.edits)
            with patch.applied(model):
                measured = tested(weights)
            base, patched = (f"{measured[side]['cut_off']:.1%}" for side in ("base", "patched"))
            files.progress.say(
                f"evaluate: {base} of the base's answers and {patched} of the patched model's were cut off at "
                f"{max_new_tokens} tokens"
            )
        measured |= {
            "share": shares(circuit, anatomy, settings.rows),
            "circuit": {"components": len(circuit), "method": circuit.method},
            "anatomy": {
                "layers": [{kind: anatomy.count(layer.index, kind) for kind in KINDS} for layer in anatomy.layers]
            },
            "pivots": {"count": len(pivots)},
            "controls": {},
        }
        planted = localisation(pivots, task.train, answering.grader)
        if planted:
            measured["pivots"]["planted"] = planted
    with files.timed("controls"):
        if controls:
            unbounded = NO_BUDGET  # no cost of a control disqualifies a step
            validator = Validator(model, answering, task, unbounded, max_new_tokens, files.note)

            def train_control(control: Circuit, what: str) -> Amplified:
                return train(
                    files, model, anatomy, control, pivots, settings, validator,
                    texts=texts, seed=seed, what=what, kept_in=CONTROL,
                )  # fmt: skip

            measured["controls"] = _controls(files, anatomy, circuit, tested, controls, seed, train_control)
    write_sealed(files / FILE, FORMAT, 1, {"made_from": files.made_from, **measured})


def _controls(
    files: StageFiles,
    anatomy: Anatomy,
    circuit: Circuit,
    tested: AgainstBase,
    count: int,
    seed: int,
    train_control: Callable[[Circuit, str], Amplified],
) -> Row:
    """Random circuits of the same size and mix, amplified on the same pivots with the same settings and no budget.

    ``matched`` is the first validated step at which a control is as accurate as the patch on the validation data:
    what the same gain costs there. Its drift, like the patch's, is that of the validation halves.
    """
    summary = read_sealed(files / SUMMARY, AMPLIFY, 1)
    target = next(r["validation"] for r in summary["history"] if r["step"] == summary["best_step"])
    generator = torch.Generator().manual_seed(seed)
    draws = []
    for draw in range(count):
        control = random_circuit(anatomy, circuit, generator)
        amplified = train_control(control, f"control: random circuit {draw + 1} of {count}")
        draws.append(_control_row(tested, amplified, control, target))
    matched = [row["drift"] for draw in draws if (row := draw["matched"]) and row["drift"] is not None]
    drifts = [kl for draw in draws if (kl := draw["drift"]["kl"]) is not None]
    row: Row = {
        "draws": draws,
        "gain": {"points": median(draw["gain"]["points"] for draw in draws)},
        "drift": {"kl": median(drifts) if drifts else None},
        "matched": {
            "reached": sum(draw["matched"] is not None for draw in draws),
            "drift": median(matched) if matched else None,
            "patch": target["drift"],
        },
    }
    return {"random": row}


def _control_row(tested: AgainstBase, amplified: Amplified, circuit: Circuit, target: Row) -> Row:
    amplified.trained.load(amplified.rows)
    trained = amplified.trained
    rows = ((*key, trained.rows[key].indices, trained.before[key], after) for key, after in amplified.rows.items())
    with trained.written():
        measured = tested(weights_key(rows))
    reached = next(
        (
            record
            for record in amplified.history
            if record.step
            and record.validation.accuracy >= target["accuracy"]
            and isfinite(record.validation.drift or 0.0)
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
