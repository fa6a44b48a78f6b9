"""The circuit stage: the localiser that the configuration names, run on the pivots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

import torch

from cca.circuits.attribution import attribution_circuit, gate_gradient
from cca.circuits.circuit import Circuit, load_circuit
from cca.circuits.controls import random_circuit, whole_model
from cca.circuits.masking import Mask, MaskSettings, learn_mask
from cca.circuits.size import Size
from cca.errors import CcaError
from cca.models.out_of_memory import halving
from cca.pivots.pivot import Pivot
from cca.runs.session import Session

ATTRIBUTION_BATCH = 32


def locate(session: Session, pivots: Sequence[Pivot]) -> Circuit:
    settings, anatomy, rows = session.config.circuit, session.anatomy, session.config.amplify.rows
    match settings.localiser:
        case "dcm":
            return _learned(session, pivots)
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
    size = Size.parse(settings.size)
    if settings.localiser == "random":
        return _random(session, settings.kinds, size)
    with session.narrator.work("circuit: attribution", len(pivots)) as progress:
        gradient = halving(
            "circuit: attribution",
            ATTRIBUTION_BATCH,
            lambda size: gate_gradient(session.model, anatomy, pivots, size, progress),
            session.note,
        )
    return attribution_circuit(gradient, anatomy, settings.sign, settings.kinds, size, rows)


def _learned(session: Session, pivots: Sequence[Pivot]) -> Circuit:
    settings, anatomy = session.config.circuit, session.anatomy
    wanted = MaskSettings(
        seed=session.config.seed,
        **{f.name: getattr(settings, f.name) for f in fields(MaskSettings) if f.name != "seed"},
    )
    with session.narrator.work("circuit: learning the mask", settings.epochs) as progress:

        def told(epochs: int) -> None:
            progress(epochs)
            session.chunk_done()

        def attempt(batch_size: int) -> Mask:
            return learn_mask(session.model, anatomy, pivots, replace(wanted, batch_size=batch_size), told)

        mask = halving(
            "circuit: mask (its batch is also the pivots of a step)", wanted.batch_size, attempt, session.note
        )
    return mask.circuit(anatomy, wanted.threshold)


def _random(session: Session, kinds: Sequence[str], size: Size) -> Circuit:
    generator = torch.Generator().manual_seed(session.config.seed)
    counts = size.counts(session.anatomy, kinds, session.config.amplify.rows)
    first = [c for kind, count in counts.items() for c in list(session.anatomy.components([kind]))[:count]]
    return random_circuit(session.anatomy, Circuit.of(first, "size"), generator)
