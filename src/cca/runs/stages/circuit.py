"""The circuit stage: the localiser that the configuration names, run on the pivots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from cca.circuits.circuit import Circuit
from cca.circuits.localisers import Choice, Site
from cca.circuits.localisers import locate as locate_by_name
from cca.circuits.natural import natural_circuit
from cca.circuits.size import Size
from cca.files import fingerprint
from cca.gradients.sampled_likelihood import Text
from cca.models.anatomy.components import KINDS
from cca.models.out_of_memory import halving
from cca.pivots.pivot import Pivot
from cca.runs.config.config import CircuitConfig
from cca.runs.folder.training_file import MASK, KeptState
from cca.runs.session import Session
from cca.runs.stages.retention_texts import spared_texts

BATCH = 32
"""Pivots at once, where the batch does not change what is found."""


def locate(session: Session, pivots: Sequence[Pivot], kept_as: str | None = None) -> Circuit:
    """``kept_as`` says, for the run folder, what a mask's training is made from; without it nothing is kept."""
    choice = Choice.of(settled(session.config.circuit, session))
    spared, rows = spared_texts(session), session.config.amplify.rows
    trains = "dcm" in choice.localiser.split()
    what = f"circuit: {choice.localiser}"
    total = {"attribution": len(pivots), "dcm": choice.epochs}.get(choice.localiser)
    with session.narrator.work(what, total) as progress:

        def attempt(batch_size: int) -> Circuit:
            site = Site(
                session.model, session.anatomy, pivots, spared, rows, session.config.seed, batch_size, progress,
                promising=promising(session, pivots, spared, rows, batch_size),
                keeper=_keeper(session, kept_as),
            )  # fmt: skip
            return locate_by_name(site, replace(choice, batch_size=min(choice.batch_size, batch_size)))

        if trains:
            what += " (its batch is also the pivots of a step)"
        return halving(what, choice.batch_size if trains else BATCH, attempt, session.note)


def settled(settings: CircuitConfig, session: Session) -> CircuitConfig:
    """The settings with ``auto`` made out: sparing other skills takes text of other skills."""
    localiser = settings.localiser
    if localiser == "auto":
        localiser = "natural" if session.task.retention else "attribution"
    kinds = settings.kinds or (KINDS if "natural" in localiser.split() else ("neuron",))
    return settings.model_copy(update={"localiser": localiser, "kinds": kinds})


def promising(
    session: Session, pivots: Sequence[Pivot], spared: Sequence[Text], rows: str, batch_size: int
) -> Callable[[Choice], Circuit]:
    """The localiser ``natural`` on these pivots and texts."""

    def located(choice: Choice) -> Circuit:
        return natural_circuit(
            session.model, session.anatomy, pivots, spared, Size.parse(choice.size), choice.kinds, rows,
            session.config.seed, batch_size,
        )  # fmt: skip

    return located


def _keeper(session: Session, kept_as: str | None) -> Callable[[str], KeptState] | None:
    if kept_as is None:
        return None
    return lambda which: KeptState(session.folder / MASK, fingerprint([kept_as, which]), session.chunk_done)
