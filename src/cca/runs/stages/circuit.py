"""The circuit stage: the localiser that the configuration names, run on the pivots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from transformers import PreTrainedModel

from cca.circuits.circuit import Circuit, save_circuit
from cca.circuits.localisers import Choice, Site, locate
from cca.circuits.natural import natural_circuit
from cca.circuits.size import Size
from cca.gradients.sampled_likelihood import Text
from cca.models.anatomy.anatomy import Anatomy
from cca.models.anatomy.components import KINDS
from cca.models.out_of_memory import halving
from cca.pivots.pivot import Pivot
from cca.runs.config.config import CircuitConfig
from cca.runs.folder.stage_files import MASK, StageFiles
from cca.runs.progress.progress import RunProgress
from cca.runs.replica import broadcast_file

FILE = "circuit.jsonl"
BATCH = 32
"""Pivots at once, where the batch does not change what is found."""


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
    progress: RunProgress,
) -> None:
    """Write ``circuit.jsonl``. ``settings`` are those of `settled`; ``texts`` are retention texts."""
    choice = Choice.of(settings)
    trains = "dcm" in choice.localiser.split()
    what = f"circuit: {choice.localiser}"
    total = {"attribution": len(pivots), "dcm": choice.epochs}.get(choice.localiser)
    with files.timed(), progress.work(what, total) as report:

        def attempt(batch_size: int) -> Circuit:
            site = Site(
                model, anatomy, pivots, texts, rows, seed, batch_size, report,
                promising=promising(model, anatomy, pivots, texts, rows, seed, batch_size),
                keeper=lambda which: files.training_state(MASK, which),
            )  # fmt: skip
            return locate(site, replace(choice, batch_size=min(choice.batch_size, batch_size)))

        if trains:
            what += " (its batch is also the pivots of a step)"
        located = halving(what, choice.batch_size if trains else BATCH, attempt, files.note)
    save_circuit(files / FILE, located, made_from=files.made_from)
    broadcast_file(files / FILE)
    files.chunk_done()


def settled(settings: CircuitConfig, has_texts: bool) -> CircuitConfig:
    """The settings with ``auto`` resolved: the natural localiser needs retention texts."""
    localiser = settings.localiser
    if localiser == "auto":
        localiser = "natural" if has_texts else "attribution"
    kinds = settings.kinds or (KINDS if "natural" in localiser.split() else ("neuron",))
    return settings.model_copy(update={"localiser": localiser, "kinds": kinds})


def promising(
    model: PreTrainedModel,
    anatomy: Anatomy,
    pivots: Sequence[Pivot],
    texts: Sequence[Text],
    rows: str,
    seed: int,
    batch_size: int,
) -> Callable[[Choice], Circuit]:
    """The localiser ``natural`` on these pivots and texts."""

    def located(choice: Choice) -> Circuit:
        return natural_circuit(
            model, anatomy, pivots, texts, Size.parse(choice.size), choice.kinds, rows, seed, batch_size
        )

    return located
