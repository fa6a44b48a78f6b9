"""The evaluate stage: base and patched on the same test problems and retention sets, and the controls beside them.

The test split is read here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from statistics import median
from typing import Any

import torch

from cca.amplify.amplify import Amplified
from cca.amplify.settings import BudgetConfig
from cca.circuits.circuit import Circuit, shares
from cca.circuits.random_circuits import random_circuit
from cca.evaluation.against_base import AgainstBase
from cca.evaluation.answers import weights_key
from cca.evaluation.planted_pivots import localisation
from cca.files import Row, read_sealed, write_sealed
from cca.models.anatomy.components import KINDS
from cca.pivots.pivot import Pivot
from cca.runs.folder.stage_inputs import CONTROL
from cca.runs.session import Session
from cca.runs.stages import stages
from cca.runs.stages.amplify import AMPLIFY, run_amplify
from cca.runs.stages.answers import answering
from cca.runs.stages.validate import validator

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
                tested = against_base(session)
                weights = weights_key(
                    (e.parameter, e.axis, e.indices, e.before, e.after) for e in made_patch.edits
                )
                with made_patch.applied(session.model):
                    measured = tested(weights)
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


def against_base(session: Session) -> AgainstBase:
    """Make it while the model is untouched."""
    task = session.task
    return AgainstBase(
        session.model, session.grader, answering(session), task.test, task.retention, task.seen_templates,
        session.max_new_tokens, session.config.seed, note=session.note,
    )  # fmt: skip


def _controls(session: Session, tested: AgainstBase, circuit: Circuit, pivots: Sequence[Pivot]) -> Row:
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
    # controls show what their gain costs, so nothing they cost disqualifies a step
    judge = validator(session, NO_BUDGET)
    for draw in range(count):
        control = random_circuit(session.anatomy, circuit, generator)
        what = f"control: random circuit {draw + 1} of {count}"
        amplified = run_amplify(session, control, pivots, judge, what, CONTROL)
        draws.append(_control_row(tested, amplified, control, target))
    measured = bool(session.task.retention)  # without retention sets no drift is
    matched = [draw["matched"]["drift"] for draw in draws if draw["matched"] and measured]
    drifts = [kl for draw in draws if (kl := draw["drift"]["kl"]) is not None]
    row: dict[str, Any] = {
        "draws": draws,
        "gain": {"points": median(draw["gain"]["points"] for draw in draws)},
        "drift": {"kl": median(drifts) if drifts else None},
        "matched": {
            "reached": sum(draw["matched"] is not None for draw in draws),
            "drift": median(matched) if matched else None,
            "patch": target["drift"] if measured else None,
        },
    }
    return {"random": row}


def _control_row(tested: AgainstBase, amplified: Amplified, circuit: Circuit, target: Row) -> Row:
    amplified.trained.load(amplified.rows)
    trained = amplified.trained
    rows = (
        (*key, trained.rows[key].indices, trained.before[key], after) for key, after in amplified.rows.items()
    )
    with trained.written():
        measured = tested(weights_key(rows))
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
