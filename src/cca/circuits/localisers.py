"""Every way to locate a circuit; `cca.circuits.settings.LOCALISERS` names them. All give a `Circuit`.

A `Site` is where circuits are located: model, pivots, texts of other skills. It keeps what several localisers share
(prefix KV, the gate gradient), so that comparing them costs each of them only its own part. Circuits combine as sets:
``attribution & dcm``, ``selective - random``, read from left to right.

The natural circuit holds the components whose whitened steps promise the largest gain per parameter. Steps go along
d = g F^-1 (`cca.gradients.fisher`). For a given cost to text of other skills, the gain that a row promises is g . d,
its squared gradient in the metric of that cost. Components of all kinds are ranked together by the sum over their rows
divided by their parameters, and taken until the requested size is used up. Nothing else decides: where heads are worth
more than neurons, heads are taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from cca import distributed
from cca.circuits.attribution import (
    gate_fisher,
    gate_gradient,
    integrated_gradient,
    ranked_by,
    selective_scores,
    top_scored,
)
from cca.circuits.circuit import Circuit, load_circuit, random_circuit, whole_model
from cca.circuits.dcm import learn_mask
from cca.circuits.settings import LOCALISERS, CircuitConfig, Size, check_localiser, resolve_auto
from cca.engines.engine import Progress
from cca.errors import CcaError
from cca.gradients.fisher import measure_whitening
from cca.gradients.pivot_forward import PivotForward
from cca.gradients.pivot_gradient import OBJECTIVES, add_pivot_gradient
from cca.gradients.sampled_likelihood import MOST_TEXTS, Text
from cca.gradients.trainable_rows import TrainableRows
from cca.gradients.training_state import TrainingFile
from cca.models.anatomy.anatomy import Anatomy
from cca.models.anatomy.components import KINDS
from cca.models.precision import in_double
from cca.pivots.pivot import Pivot
from cca.section import load_entry

T = TypeVar("T")
OBJECTIVE = OBJECTIVES["softplus"]
DAMPING = 1e-3
HELD = 1 << 28
"""Parameters whose gradients `natural` holds at a time; those of one layer at least."""


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
    return site.top(ranked_by(site.gradient, settings.sign), f"attribution-{settings.sign}", settings)


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
    """The natural circuit of at most the size, and at least one component; scores are the promised gain per parameter.

    The gradient is always that of `OBJECTIVE` with damping `DAMPING`, whatever objective, anchor and damping the steps
    are trained with later. Gains are compared across layers although each layer's F is divided by its own mean diagonal
    (`cca.gradients.fisher`): the cost is on one scale within a layer only. Gradients are taken for one group of layers
    at a time (`layer_groups`), at one pass over pivots and texts per group. Raises CcaError without texts of other
    skills, and for kinds that the model lacks.
    """
    anatomy, kinds = site.anatomy, settings.kinds or ()
    promised = torch.zeros(anatomy.size, dtype=torch.float64)
    parameters = torch.zeros(anatomy.size, dtype=torch.int64)
    for group in layer_groups(anatomy, kinds, site.rows):
        trained = TrainableRows(site.model, anatomy.rows(group, site.rows))
        add_pivot_gradient(site.model, anatomy, trained, site.pivots, OBJECTIVE, site.batch_size)
        gradients = {key: leaf.grad for key, leaf in trained.masters.items() if leaf.grad is not None}
        rows, batch_size = list(trained.rows.values()), min(MOST_TEXTS, site.batch_size)
        directions = measure_whitening(site.model, rows, site.texts, DAMPING, site.generator(), batch_size)(gradients)
        for key, row in trained.rows.items():
            owners = anatomy.owners(row)
            parameters.index_add_(0, owners, torch.full_like(owners, trained.masters[key].shape[1]))
            if key in gradients:
                promised.index_add_(0, owners, in_double(gradients[key] * directions[key]).sum(dim=1).cpu())
    if not parameters.any():
        raise CcaError(
            f"circuit: expected components of kind {', '.join(kinds)} that own rows in mode {site.rows}, "
            "this model has none"
        )
    distributed.broadcast_(promised)
    scores = promised / parameters.clamp_min(1)
    chosen = _fitting(scores, parameters, Size.parse(settings.size), anatomy)
    scored = {anatomy.component(flat): float(scores[flat]) for flat in chosen}
    return Circuit.of(scored, "natural", scored)


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


def layer_groups(anatomy: Anatomy, kinds: Sequence[str], rows: str) -> Iterator[Tensor]:
    """Masks (anatomy.size,) of the components that own rows: layer by layer, several together while they are small."""
    group = torch.zeros(anatomy.size, dtype=torch.bool)
    held = 0
    for layer in anatomy.layers:
        own = torch.zeros_like(group)
        for kind in kinds:
            own[anatomy.span(layer.index, kind)] = True
        more = anatomy.parameter_count(own, rows)
        if held and held + more > HELD:
            yield group
            group, held = torch.zeros_like(group), 0
        group = group | own
        held += more
    if held:
        yield group


def _fitting(scores: Tensor, parameters: Tensor, size: Size, anatomy: Anatomy) -> list[int]:
    """Flat indices of the best components that fit; those too large for what is left are skipped.

    scores, parameters: (anatomy.size,); components without parameters own no rows.
    """
    candidates = parameters.nonzero().squeeze(1)
    ranked = candidates[scores[candidates].argsort(descending=True, stable=True)]
    if size.of == "parameters":
        left, costs = size.amount * anatomy.total_parameters, parameters[ranked]
    else:
        left = max(1, int(size.amount if size.of == "count" else size.amount * anatomy.size))
        costs = torch.ones_like(ranked)
    chosen = []
    for flat, cost in zip(ranked.tolist(), costs.tolist(), strict=True):
        if cost <= left:
            chosen.append(flat)
            left -= cost
    return chosen or [int(ranked[parameters[ranked].argmin()])]
