"""The circuit stage: the localiser that the configuration names, run on the pivots."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedModel

from cca.circuits.circuit import Circuit, save_circuit
from cca.circuits.localisers import Site
from cca.circuits.settings import CircuitConfig
from cca.gradients.sampled_likelihood import Text
from cca.models.anatomy.anatomy import Anatomy
from cca.models.memory import halving
from cca.pivots.pivot import Pivot
from cca.runs.folder.stage_files import MASK, StageFiles
from cca.runs.replica import broadcast_file

FILE = "circuit.jsonl"
BATCH = 32
"""Pivots per pass, where the batch size does not change the circuit."""


def run_circuit(
    files: StageFiles,
    model: PreTrainedModel,
    anatomy: Anatomy,
    pivots: Sequence[Pivot],
    settings: CircuitConfig,
    *,
    texts: Sequence[Text],
    rows: str,
    seed: int,
) -> None:
    """Write ``circuit.jsonl``. ``settings`` are those of `resolve_auto`; ``texts`` are retention texts."""
    trains = "dcm" in settings.localiser.split()
    what = f"circuit: {settings.localiser}"
    total = {"attribution": len(pivots), "dcm": settings.epochs}.get(settings.localiser)
    with files.timed(), files.progress.work(what, total) as report:

        def attempt(batch_size: int) -> Circuit:
            state = files.training_state(MASK)
            site = Site(model, anatomy, pivots, texts, rows, seed, batch_size, report, state)
            return site.locate(settings.model_copy(update={"batch_size": min(settings.batch_size, batch_size)}))

        if trains:
            what += " (its batch is also the pivots of a step)"
        located = halving(what, settings.batch_size if trains else BATCH, attempt, files.note)
    save_circuit(files / FILE, located, made_from=files.made_from)
    broadcast_file(files / FILE)
    files.chunk_done()
