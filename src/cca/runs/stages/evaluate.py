"""The evaluate stage: base and patched on the same test problems and retention sets, and their controls.

The test split is read here and nowhere else.
"""

from __future__ import annotations

from math import isfinite
from statistics import median

import torch

from cca.amplify.amplify import Amplified
from cca.amplify.settings import BudgetConfig
from cca.circuits.circuit import Circuit, random_circuit, shares
from cca.evaluation.accuracy import localisation
from cca.evaluation.answers import Answering, weights_key
from cca.evaluation.validation import AgainstBase
from cca.files import Row, read_sealed, write_sealed
from cca.models.anatomy.components import KINDS
from cca.patches.patch import Patch
from cca.problems.task import Task
from cca.runs.folder.stage_files import CONTROL
from cca.runs.stages.amplify import AMPLIFY, SUMMARY, Training

FILE = "evaluation.json"
FORMAT = "cca.evaluation"
NO_BUDGET = BudgetConfig(points=100.0, drift=1e9)


def run_evaluate(
    training: Training,
    patch: Patch,
    circuit: Circuit,
    task: Task,
    answering: Answering,
    max_new_tokens: int,
    controls: int,
) -> None:
    """Write ``evaluation.json``: base and patched on the test split, and ``controls`` random circuits.

    ``training`` is that of the controls: no cost disqualifies a step of theirs.
    """
    files, model, anatomy, pivots = training.files, training.model, training.anatomy, training.pivots
    with files.timed():
        with files.progress.work("evaluate: base and patched", None):
            tested = AgainstBase(model, answering, task, max_new_tokens, training.seed, files.note)
            weights = weights_key((e.parameter, e.axis, e.indices, e.before, e.after) for e in patch.edits)
            with patch.applied(model):
                measured = tested(weights)
            base, patched = (f"{measured[side]['cut_off']:.1%}" for side in ("base", "patched"))
            files.progress.say(
                f"evaluate: {base} of the base's answers and {patched} of the patched model's were cut off at "
                f"{max_new_tokens} tokens"
            )
        measured |= {
            "share": shares(circuit, anatomy, training.settings.rows),
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
            measured["controls"] = _controls(training, circuit, tested, controls)
    write_sealed(files / FILE, FORMAT, 1, {"made_from": files.made_from, **measured})


def _controls(training: Training, circuit: Circuit, tested: AgainstBase, count: int) -> Row:
    """Random circuits of the same size and mix, amplified on the same pivots with the same settings and no budget.

    ``matched`` is the first validated step at which a control is as accurate as the patch on the validation data:
    what the same gain costs there. Its drift, like the patch's, is that of the validation halves.
    """
    summary = read_sealed(training.files / SUMMARY, AMPLIFY, 1)
    target = next(r["validation"] for r in summary["history"] if r["step"] == summary["best_step"])
    generator = torch.Generator().manual_seed(training.seed)
    draws = []
    for draw in range(count):
        control = random_circuit(training.anatomy, circuit, generator)
        amplified = training.on(control, f"control: random circuit {draw + 1} of {count}", CONTROL)
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
