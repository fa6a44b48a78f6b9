"""The amplify stage: the circuit's rows trained and validated, and the patch of the best step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from cca.amplify.amplify import Amplified, StepRecord, amplify
from cca.circuits.circuit import Circuit
from cca.evaluation.validation import Validator
from cca.files import Row, fingerprint
from cca.gradients.training_state import TrainingFile
from cca.patches.addition import nearest_reachable
from cca.patches.patch import Patch
from cca.pivots.pivot import Pivot
from cca.runs.folder.run_folder import without_out
from cca.runs.session import Session
from cca.runs.stages.retention_texts import spared_texts

AMPLIFY = "cca.amplify"


def run_amplify(
    session: Session,
    circuit: Circuit,
    pivots: Sequence[Pivot],
    validator: Validator,
    what: str,
    kept_in: str | None = None,
) -> Amplified:
    """Train the circuit's rows; ``kept_in`` names the file of the run folder that keeps the training's state."""
    settings = session.config.amplify
    validator.prepare(session.anatomy.rows(circuit.components, settings.rows))
    state = None
    if kept_in:
        made_from = fingerprint([session.made_from("amplify"), what, circuit.fingerprint])
        state = TrainingFile(session.folder / kept_in, made_from, session.chunk_done)
    with session.narrator.work(f"{what}: steps on {len(circuit)} components", settings.steps) as progress:

        def report(record: StepRecord) -> None:
            progress(1 if record.step else 0)
            session.track({what: record.to_row()}, record.step)
            session.chunk_done()

        amplified = amplify(
            session.model, session.anatomy, circuit, pivots, settings, validator, texts=spared_texts(session),
            seed=session.config.seed, on_step=report, state=state, note=session.note, what=what,
        )  # fmt: skip
    if " at step " in amplified.stopped:  # neither all steps taken nor patience at an end
        session.note(f"{what}: {amplified.stopped}; the best step before it is kept")
    return amplified


def make_patch(session: Session, circuit: Circuit, amplified: Amplified) -> Patch:
    trained = amplified.trained
    edits = [
        (name, axis, trained.rows[name, axis].indices, trained.before[name, axis], reachable)
        for (name, axis), after in amplified.rows.items()
        for reachable in [
            nearest_reachable(trained.before[name, axis], after)
        ]  # adapters add; see addition.py
    ]
    made_by = {"config": without_out(session.config), "best_step": amplified.best_step}
    return Patch.from_edits(
        session.model,
        edits,
        base_model=session.config.model,
        base_revision=session.config.revision,
        circuit=[str(component) for component in circuit.components],
        made_by=made_by,
    )


def amplify_summary(amplified: Amplified) -> Row:
    return {
        "best_step": amplified.best_step,
        "coefficient": amplified.coefficient,
        "stopped": amplified.stopped,
        "history": [_finite(record.to_row()) for record in amplified.history],
    }


def _finite(value: Any) -> Any:
    """``value`` with null for infinities and not-a-number, which JSON lacks."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
