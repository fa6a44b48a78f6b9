"""The circuit stage: the localiser that the configuration names, run on the pivots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace

import torch

from cca.amplify.natural import natural_circuit
from cca.circuits.attribution import attribution_circuit, gate_gradient
from cca.circuits.circuit import Circuit, load_circuit
from cca.circuits.controls import random_circuit, whole_model
from cca.circuits.localisers import Choice, Site
from cca.circuits.localisers import locate as locate_by_name
from cca.circuits.mask_training import Mask, MaskSettings
from cca.circuits.masking import learn_mask
from cca.circuits.size import Size
from cca.errors import CcaError
from cca.files import fingerprint
from cca.models.components import KINDS
from cca.models.drawn import Text
from cca.models.out_of_memory import halving
from cca.pivots.pivot import Pivot
from cca.runs.config import CircuitConfig
from cca.runs.kept_mask import KeptMask
from cca.runs.session import Session
from cca.runs.spared import spared_texts

ATTRIBUTION_BATCH = 32


def locate(session: Session, pivots: Sequence[Pivot], kept_as: str | None = None) -> Circuit:
    """``kept_as`` says, for the run folder, what a mask's training is made from; without it nothing is kept."""
    settings, anatomy, rows = (
        settled(session.config.circuit, session),
        session.anatomy,
        session.config.amplify.rows,
    )
    special = settings.relaxation != "clamp" or settings.penalty_for != "coefficient"
    if settings.localiser not in ("attribution", "dcm", "file", "all", "random") or special:
        return _located(session, pivots, settings, kept_as)
    match settings.localiser:
        case "dcm":
            return _learned(session, pivots, kept_as)
        case "file":
            if settings.file is None:
                raise CcaError(
                    "circuit.localiser file: expected circuit.file to name a circuit file, got none"
                )
            given = load_circuit(settings.file)
            anatomy.rows(given.components)  # refuses components the model lacks
            return given
        case "all":
            return whole_model(anatomy)
    size, kinds = Size.parse(settings.size), settings.kinds or ("neuron",)
    if settings.localiser == "random":
        return _random(session, kinds, size)
    with session.narrator.work("circuit: attribution", len(pivots)) as progress:
        gradient = halving(
            "circuit: attribution",
            ATTRIBUTION_BATCH,
            lambda size: gate_gradient(session.model, anatomy, pivots, size, progress),
            session.note,
        )
    return attribution_circuit(gradient, anatomy, settings.sign, kinds, size, rows)


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


def _located(
    session: Session, pivots: Sequence[Pivot], settings: CircuitConfig, kept_as: str | None
) -> Circuit:
    """By the localisers that need no more than a `Site`."""
    what = f"circuit: {settings.localiser}"

    def attempt(batch_size: int) -> Circuit:
        spared, rows = spared_texts(session), session.config.amplify.rows
        site = Site(
            session.model, session.anatomy, pivots, spared, rows, session.config.seed, batch_size,
            promising=promising(session, pivots, spared, rows, batch_size),
            keeper=_keeper(session, kept_as),
        )  # fmt: skip
        return locate_by_name(site, Choice.of(settings))

    with session.narrator.work(what, None):
        return halving(what, ATTRIBUTION_BATCH, attempt, session.note)


def _learned(session: Session, pivots: Sequence[Pivot], kept_as: str | None) -> Circuit:
    settings, anatomy = session.config.circuit, session.anatomy
    wanted = MaskSettings(
        seed=session.config.seed,
        **{f.name: getattr(settings, f.name) for f in fields(MaskSettings) if f.name != "seed"},
    )
    with session.narrator.work("circuit: learning the mask", settings.epochs) as progress:

        def attempt(batch_size: int) -> Mask:
            sized, keeper = replace(wanted, batch_size=batch_size), _keeper(session, kept_as)
            kept = keeper(repr(sized)) if keeper else None
            return learn_mask(session.model, anatomy, pivots, sized, progress, keeper=kept)

        mask = halving(
            "circuit: mask (its batch is also the pivots of a step)", wanted.batch_size, attempt, session.note
        )
    return mask.circuit(anatomy, wanted.threshold)


def _keeper(session: Session, kept_as: str | None) -> Callable[[str], KeptMask] | None:
    if kept_as is None:
        return None
    return lambda which: KeptMask(session.folder.path, fingerprint([kept_as, which]), session.chunk_done)


def _random(session: Session, kinds: Sequence[str], size: Size) -> Circuit:
    generator = torch.Generator().manual_seed(session.config.seed)
    counts = size.counts(session.anatomy, kinds, session.config.amplify.rows)
    first = [c for kind, count in counts.items() for c in list(session.anatomy.components([kind]))[:count]]
    return random_circuit(session.anatomy, Circuit.of(first, "size"), generator)
