"""Every way to locate a circuit; `cca.circuits.settings.LOCALISERS` names them. All give a `Circuit`.

A `Site` is where circuits are located: model, pivots, texts of other skills. It keeps what several localisers share
(prefix KV, the gate gradient), so that comparing them costs each of them only its own part. Circuits combine as sets:
``attribution & dcm``, ``selective - random``, read from left to right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from cca.circuits.attribution import (
    attribution_circuit,
    gate_fisher,
    gate_gradient,
    integrated_gradient,
    ranked_by,
    selective_scores,
    top_scored,
)
from cca.circuits.circuit import Circuit, load_circuit, random_circuit, whole_model
from cca.circuits.dcm import learn_mask
from cca.circuits.natural import natural_circuit
from cca.circuits.settings import LOCALISERS, CircuitConfig, Size, check_localiser, resolve_auto
from cca.engines.engine import Progress
from cca.errors import CcaError
from cca.gradients.pivot_forward import PivotForward
from cca.gradients.sampled_likelihood import MOST_TEXTS, Text
from cca.gradients.training_state import TrainingFile
from cca.models.anatomy.anatomy import Anatomy
from cca.models.anatomy.components import KINDS
from cca.pivots.pivot import Pivot
from cca.section import load_entry

T = TypeVar("T")


@dataclass
class Site:
    """Everything that localisers need: model, pivots and texts, with what they share computed once.

    texts: (prompt, solution) tokens of other skills, for localisers that avoid what those depend on. rows: the row mode
    by which parameters are counted. batch_size: pivots per pass, where it does not change the result.
    ``progress`` counts pivots or epochs. ``state`` keeps the training of a mask.
    """

    model: PreTrainedModel
    anatomy: Anatomy
    pivots: Sequence[Pivot]
    texts: Sequence[Text] = ()
    rows: str = "paper"
    seed: int = 0
    batch_size: int = 32
    progress: Progress | None = None
    state: TrainingFile | None = None
    _shared: dict[str, Any] = field(default_factory=dict)

    def locate(self, settings: CircuitConfig) -> Circuit:
        """The circuit that ``settings`` ask for. Raises CcaError when it would be empty."""
        settings = resolve_auto(settings, bool(self.texts))
        check_localiser(settings.localiser)
        first, *rest = settings.localiser.split()
        circuit = find_localiser(first)(self, settings)
        for sign, name in zip(rest[::2], rest[1::2], strict=True):
            other = find_localiser(name)(self, settings)
            circuit = {"|": circuit.__or__, "&": circuit.__and__, "-": circuit.__sub__}[sign](other)
        if not len(circuit):
            raise CcaError(
                f"circuit: expected {settings.localiser} to choose components, got none; "
                "lower circuit.penalty or ask for a larger size"
            )
        return circuit

    def with_rows(self, rows: str) -> Site:
        """The same site for another row mode, which shares everything already computed."""
        return replace(self, rows=rows)

    def forward(self, batch_size: int | None = None) -> PivotForward:
        size = batch_size or self.batch_size
        return self.once(f"forward {size}", lambda: PivotForward(self.model, self.anatomy, self.pivots, size))

    @property
    def gradient(self) -> Tensor:
        """d mean(logit gap) / d gate factor at "no change", (anatomy.size,)."""
        return self.once(
            "gradient", lambda: gate_gradient(self.model, self.anatomy, self.pivots, self.batch_size, self.progress)
        )

    def once(self, key: str, make: Callable[[], T]) -> T:
        """The value that ``make`` gave when this key was first asked for, here or at a site with other rows."""
        if key not in self._shared:
            self._shared[key] = make()
        return self._shared[key]

    def generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)

    def counts(self, settings: CircuitConfig, kinds: Sequence[str]) -> dict[str, int]:
        return Size.parse(settings.size).counts(self.anatomy, kinds, self.rows)

    def top(self, scores: Tensor, method: str, settings: CircuitConfig) -> Circuit:
        size = Size.parse(settings.size)
        return top_scored(scores, self.anatomy, method, settings.kinds or (), size, self.rows)


Localiser = Callable[[Site, CircuitConfig], Circuit]
"""Locates a circuit at a site; ``kinds`` of the settings are given (`resolve_auto`)."""


def find_localiser(name: str) -> Localiser:
    """The function that a row of `LOCALISERS` names."""
    return load_entry(LOCALISERS[name])


def attribution(site: Site, settings: CircuitConfig) -> Circuit:
    size, kinds = Size.parse(settings.size), settings.kinds or ()
    return attribution_circuit(site.gradient, site.anatomy, settings.sign, kinds, size, site.rows)


def integrated(site: Site, settings: CircuitConfig) -> Circuit:
    gradient = site.once("integrated", lambda: integrated_gradient(site.forward()))
    return site.top(ranked_by(gradient, settings.sign), f"integrated-{settings.sign}", settings)


def selective(site: Site, settings: CircuitConfig) -> Circuit:
    batch_size = min(MOST_TEXTS, site.batch_size)
    fisher = site.once(
        "fisher", lambda: gate_fisher(site.model, site.anatomy, site.texts, site.generator(), batch_size)
    )
    return site.top(selective_scores(site.gradient, fisher), "selective", settings)


def natural(site: Site, settings: CircuitConfig) -> Circuit:
    return natural_circuit(
        site.model, site.anatomy, site.pivots, site.texts, Size.parse(settings.size), settings.kinds or (),
        site.rows, site.seed, site.batch_size,
    )  # fmt: skip


def dcm(site: Site, settings: CircuitConfig) -> Circuit:
    """The paper's own mask, another relaxation of it, or one whose penalty aims at a size."""
    target = sum(site.counts(settings, KINDS).values()) if settings.penalty_for == "size" else None
    state = site.state.part("mask", settings.model_dump(mode="json"), site.seed) if site.state else None
    forward = site.forward(settings.batch_size)
    mask = learn_mask(forward, settings, site.seed, target, site.progress, state=state)
    return mask.circuit(site.anatomy, settings.threshold)


def random_components(site: Site, settings: CircuitConfig) -> Circuit:
    counts = site.counts(settings, settings.kinds or ())
    first = [c for kind, count in counts.items() for c in list(site.anatomy.components([kind]))[:count]]
    return random_circuit(site.anatomy, Circuit.of(first, "size"), site.generator())


def all_components(site: Site, settings: CircuitConfig) -> Circuit:
    del settings
    return whole_model(site.anatomy)


def read_from_file(site: Site, settings: CircuitConfig) -> Circuit:
    if settings.file is None:
        raise CcaError("circuit.localiser file: expected circuit.file to name a circuit file, got none")
    given = load_circuit(settings.file)
    site.anatomy.rows(given.components)  # refuses components the model lacks
    return given
