"""The evaluate stage: base and patched on the same test problems and retention sets, and the controls beside them.

The test split is read here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import isfinite
from statistics import median
from typing import Any

import torch

from cca.amplify.amplify import Amplified
from cca.amplify.settings import BudgetConfig
from cca.circuits.circuit import Circuit, shares
from cca.circuits.random_circuits import random_circuit
from cca.evaluation.accuracy import Results, comparison, per_template, summary
from cca.evaluation.planted_pivots import localisation
from cca.files import Row, read_sealed, write_sealed
from cca.models.anatomy.components import KINDS
from cca.pivots.pivot import Pivot
from cca.problems.task import halves
from cca.runs.folder.measurements import UNTOUCHED, weights_key
from cca.runs.folder.stage_inputs import CONTROL
from cca.runs.session import Session
from cca.runs.stages import stages
from cca.runs.stages.amplify import AMPLIFY, run_amplify
from cca.runs.stages.answers import answers, answers_by_skill
from cca.runs.stages.validate import Validator, drift_of, make_probe

FORMAT = "cca.evaluation"
NO_BUDGET = BudgetConfig(points=100.0, drift=1e9)


def evaluation(session: Session) -> Row:
    """Everything measured on the test split, as report.json has it."""
    made_patch = stages.patch(session)
    path, made_from = session.folder / "evaluation.json", session.made_from("evaluate")
    if not path.exists():
        own_pivots, own_circuit = stages.pivots(session), stages.circuit(session)
        with session.timed("evaluate"):
            with session.narrator.work("evaluate: base and patched", None):
                tested = _Tested(session)
                weights = weights_key(
                    (e.parameter, e.axis, e.indices, e.before, e.after) for e in made_patch.edits
                )
                with made_patch.applied(session.model):
                    measured = tested.against_base(weights)
            measured |= {
                "share": shares(own_circuit, session.anatomy, session.config.amplify.rows),
                "circuit": {"components": len(own_circuit), "method": own_circuit.method},
                "anatomy": {"layers": [_counts(session, layer.index) for layer in session.anatomy.layers]},
                "pivots": {"count": len(own_pivots)},
            }
            planted = localisation(own_pivots, session.task.train, session.grader)
            if planted:
                measured["pivots"]["planted"] = planted
        with session.timed("controls"):
            measured["controls"] = _controls(session, tested, own_circuit, own_pivots)
        write_sealed(path, FORMAT, 1, {"made_from": made_from, **measured})
    stages.check_made_from(path, made_from)
    (session.folder / CONTROL).unlink(missing_ok=True)
    measured = read_sealed(path, FORMAT, 1)
    session.track(
        {"test": {key: measured[key] for key in ("base", "patched", "gain", "drift", "retention", "share")}}
    )
    return measured


def _counts(session: Session, layer: int) -> dict[str, int]:
    return {kind: session.anatomy.count(layer, kind) for kind in KINDS}


class _Tested:
    """The base's results, taken while the model is untouched, and how any edit compares with them."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.reported = {name: halves(problems)[1] for name, problems in session.task.retention.items()}
        self.probes = {name: make_probe(session, problems) for name, problems in self.reported.items()}
        self.base = self._test(UNTOUCHED)
        self.base_retention = self._retention(UNTOUCHED)

    def against_base(self, weights: str | None = None) -> Row:
        """The model as it stands, held against the base. Accuracies are fractions, gains percentage points.

        ``weights`` says what it holds (`cca.runs.folder.measurements`); without it nothing is kept for a resumed run.
        """
        seed, patched = self.session.config.seed, self._test(weights)
        retention = self._retention(weights)
        seen = self.session.task.seen_templates
        unseen = {problem.template for problem in self.base.problems} - seen
        drifts = {
            name: (drift_of(self.session, probe, weights), probe.tokens)
            for name, probe in self.probes.items()
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
        return answers(self.session, self.session.task.test, self.session.max_new_tokens, weights)

    def _retention(self, weights: str | None) -> dict[str, Results]:
        return answers_by_skill(self.session, self.reported, weights)


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


def _controls(session: Session, tested: _Tested, circuit: Circuit, pivots: Sequence[Pivot]) -> Row:
    """Random circuits of the same size and mix, amplified on the same pivots with the same settings and no budget.

    ``matched`` is the first validated step at which a control is as accurate as the patch on the validation data:
    what the same gain costs there. Its drift, like the patch's beside it, is that of the validation halves.
    """
    count = session.config.evaluate.random_controls
    if not count:
        return {}
    summary = read_sealed(session.folder / "amplify.json", AMPLIFY, 1)
    target = next(r["validation"] for r in summary["history"] if r["step"] == summary["best_step"])
    generator = torch.Generator().manual_seed(session.config.seed)
    draws = []
    with _without_budget(session):
        validator = Validator(session)
        for draw in range(count):
            control = random_circuit(session.anatomy, circuit, generator)
            what = f"control: random circuit {draw + 1} of {count}"
            amplified = run_amplify(session, control, pivots, validator, what, CONTROL)
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


@contextmanager
def _without_budget(session: Session) -> Iterator[None]:
    """Controls show what their gain costs, so nothing they cost disqualifies a step."""
    config = session.config
    session.config = config.model_copy(
        update={"amplify": config.amplify.model_copy(update={"budget": NO_BUDGET})}
    )
    try:
        yield
    finally:
        session.config = config
