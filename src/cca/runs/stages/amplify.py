"""The amplify stage: the circuit's rows trained and validated, and the patch of the best step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

from cca.amplify.amplify import Amplified, StepRecord, UpdateSettings, amplify
from cca.circuits.circuit import Circuit
from cca.evaluation.validation import Validator
from cca.files import Row, fingerprint
from cca.gradients.fisher import Precondition
from cca.gradients.sampled_likelihood import MOST_TEXTS
from cca.models.out_of_memory import halving
from cca.patches.addition import nearest_reachable
from cca.patches.patch import Patch
from cca.pivots.pivot import Pivot
from cca.runs.folder.run_folder import without_out
from cca.runs.folder.training_file import KeptState
from cca.runs.session import Session
from cca.runs.stages.objectives import preconditioner, special_gradient
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
    """``kept_in`` names the file of the run folder that keeps the training for a process that goes on with it."""
    settings = session.config.amplify
    wanted = UpdateSettings(**{f.name: getattr(settings, f.name) for f in fields(UpdateSettings)})
    validator.prepare(session.anatomy.rows(circuit.components, wanted.rows))

    def shape(batch_size: int) -> Precondition | None:
        return preconditioner(
            session.model, session.anatomy, circuit, settings, lambda: spared_texts(session), session.config.seed,
            batch_size,
        )  # fmt: skip

    shaped = halving(f"{what}: Fisher information", MOST_TEXTS, shape, session.note)
    with session.narrator.work(f"{what}: steps on {len(circuit)} components", settings.steps) as progress:

        def told(record: StepRecord) -> None:
            progress(1 if record.step else 0)
            session.track({what: record.to_row()}, record.step)
            session.chunk_done()

        def attempt(batch_size: int) -> Amplified:
            sized = replace(wanted, batch_size=batch_size)
            special = special_gradient(
                session.model, session.anatomy, pivots, settings, lambda: spared_texts(session), batch_size
            )
            keeper = None
            if kept_in:
                made_from = [session.made_from("amplify"), what, circuit.fingerprint, batch_size]
                keeper = KeptState(session.folder / kept_in, fingerprint(made_from), session.chunk_done)
            return amplify(
                session.model,
                session.anatomy,
                circuit,
                pivots,
                sized,
                validator,
                told,
                special,
                shaped,
                keeper,
            )

        # From the first step again when memory ran out, as in a run that never had the larger batch: a step over all
        # pivots is the same to rounding, and steps that were validated are not validated again.
        amplified = halving(what, wanted.batch_size, attempt, session.note)
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
    """``value`` with null for numbers that JSON lacks: a step that broke the model drifts by no number."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
