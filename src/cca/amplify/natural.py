"""The natural circuit: the components whose whitened step promises most a parameter.

Steps go along d = g F^-1 (`preconditioner`). For a given cost to text of other skills, the gain that a row promises is
g . d, its squared gradient in the metric of that cost. Components of all kinds are ranked together by the sum over
their rows, divided by their parameters, and taken until the size asked for is used up. Nothing else decides: where
heads are worth more than neurons, heads are taken.

Gradients are needed of every row that could be chosen. They are taken a group of layers at a time, so that what is held
beside the model stays below `HELD` parameters, at one pass over pivots and texts a group.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from cca.amplify.objective import OBJECTIVES
from cca.amplify.pivot_gradient import add_pivot_gradient
from cca.amplify.preconditioner import whitening
from cca.circuits.circuit import Circuit
from cca.circuits.size import Size
from cca.errors import CcaError
from cca.models.anatomy import Anatomy
from cca.models.components import Component
from cca.models.drawn import Text
from cca.models.trainable_rows import Key, TrainableRows
from cca.pivots.pivot import Pivot

DAMPING = 1e-3
HELD = 1 << 28
"""Parameters whose gradients are held at a time; one layer's at least."""


def natural_circuit(
    model: PreTrainedModel,
    anatomy: Anatomy,
    pivots: Sequence[Pivot],
    texts: Sequence[Text],
    size: Size,
    kinds: Sequence[str],
    rows: str,
    seed: int,
    batch_size: int,
) -> Circuit:
    """The circuit of at most ``size``, and at least one component; scores are the gain promised a parameter.

    Raises CcaError without texts of other skills, and for kinds that the model lacks.
    """
    scores: dict[Component, float] = {}
    parameters: dict[Component, int] = {}
    for group in layer_groups(anatomy, kinds, rows):
        trained = TrainableRows(model, anatomy.rows(group, rows))
        add_pivot_gradient(model, anatomy, trained, pivots, OBJECTIVES["softplus"], batch_size)
        gradients = {key: leaf.grad for key, leaf in trained.masters.items() if leaf.grad is not None}
        generator = torch.Generator().manual_seed(seed)
        directions = whitening(model, list(trained.rows.values()), texts, DAMPING, generator)(gradients)
        promised = {key: (gradients[key] * directions[key]).double().sum(1).cpu() for key in gradients}
        for component in group:
            promise, parameters[component] = _of(component, anatomy, rows, trained, promised)
            scores[component] = promise / parameters[component]
    if not scores:
        raise CcaError(f"circuit: expected components of kind {', '.join(kinds)}, this model has none")
    chosen = _fitting(scores, parameters, size, anatomy)
    return Circuit.of(chosen, "natural", scores)


def layer_groups(anatomy: Anatomy, kinds: Sequence[str], rows: str) -> Iterator[list[Component]]:
    """The components layer by layer, several layers together while they are small."""
    group: list[Component] = []
    held = 0
    by_layer: dict[int, list[Component]] = {}
    for component in anatomy.components(kinds):
        by_layer.setdefault(component.layer, []).append(component)
    for own in by_layer.values():
        more = anatomy.parameter_count(own, rows)
        if group and held + more > HELD:
            yield group
            group, held = [], 0
        group += own
        held += more
    if group:
        yield group


def _of(
    component: Component, anatomy: Anatomy, rows: str, trained: TrainableRows, promised: dict[Key, Tensor]
) -> tuple[float, int]:
    """What the component's rows promise together, and how many parameters they have."""
    promise, parameters = 0.0, 0
    for own in anatomy.rows([component], rows):
        key = (own.parameter, own.axis)
        parameters += len(own.indices) * trained.masters[key].shape[1]
        if key in promised:
            places = torch.searchsorted(trained.rows[key].indices, own.indices)
            promise += float(promised[key][places].sum())
    return promise, parameters


def _fitting(
    scores: dict[Component, float], parameters: dict[Component, int], size: Size, anatomy: Anatomy
) -> list[Component]:
    """The best components that fit: what is too large for what is left is passed over."""
    ranked = sorted(scores, key=lambda component: (-scores[component], component))
    if size.of == "parameters":
        left = size.amount * anatomy.total_parameters
    else:
        left = float(max(1, int(size.amount if size.of == "count" else size.amount * anatomy.size)))
    chosen = []
    for component in ranked:
        cost = parameters[component] if size.of == "parameters" else 1
        if cost <= left:
            chosen.append(component)
            left -= cost
    return chosen or [min(ranked, key=lambda component: parameters[component])]
