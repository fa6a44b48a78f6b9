"""The circuit stage: the localiser that the configuration names, run on the pivots."""

from __future__ import annotations

from collections.abc import Sequence

from cca.circuits.circuit import Circuit
from cca.circuits.localisers import Site
from cca.circuits.settings import resolve_auto
from cca.gradients.training_state import TrainingFile
from cca.models.memory import halving
from cca.pivots.pivot import Pivot
from cca.runs.folder.stage_inputs import MASK
from cca.runs.session import Session
from cca.runs.stages.retention_texts import spared_texts

BATCH = 32
"""Pivots per pass, where the batch size does not change the circuit."""


def locate(session: Session, pivots: Sequence[Pivot], kept_as: str | None = None) -> Circuit:
    """The circuit of ``pivots``.

    ``kept_as`` is what the circuit is made from: with it the run folder keeps the training of a mask.
    """
    settings = resolve_auto(session.config.circuit, bool(session.task.retention))
    texts, rows = spared_texts(session), session.config.amplify.rows
    state = TrainingFile(session.folder / MASK, kept_as, session.chunk_done) if kept_as else None
    trains = "dcm" in settings.localiser.split()
    what = f"circuit: {settings.localiser}"
    total = {"attribution": len(pivots), "dcm": settings.epochs}.get(settings.localiser)
    with session.narrator.work(what, total) as progress:

        def attempt(batch_size: int) -> Circuit:
            site = Site(
                session.model, session.anatomy, pivots, texts, rows, session.config.seed, batch_size, progress, state
            )  # fmt: skip
            sized = settings.model_copy(update={"batch_size": min(settings.batch_size, batch_size)})
            return site.locate(sized)

        if trains:
            what += " (its batch is also the pivots of a step)"
        return halving(what, settings.batch_size if trains else BATCH, attempt, session.note)
