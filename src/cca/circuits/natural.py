"""The natural circuit: the components whose whitened steps promise the largest gain per parameter.

Steps go along d = g F^-1 (`cca.gradients.fisher`). For a given cost to text of other skills, the gain that a row
promises is g . d, its squared gradient in the metric of that cost. Components of all kinds are ranked together by the
sum over their rows divided by their parameters, and taken until the requested size is used up. Nothing else decides:
where heads are worth more than neurons, heads are taken.

Gradients are needed for every row that could be chosen. They are taken for one group of layers at a time, so that the
gradients held next to the model stay below `HELD` parameters, at one pass over pivots and texts per group.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from cca import distributed
from cca.circuits.circuit import Circuit
from cca.circuits.settings import Size
from cca.errors import CcaError
from cca.gradients.fisher import measure_whitening
from cca.gradients.pivot_gradient import OBJECTIVES, add_pivot_gradient
from cca.gradients.sampled_likelihood import MOST_TEXTS, Text
from cca.gradients.trainable_rows import TrainableRows
from cca.models.anatomy.anatomy import Anatomy
from cca.models.precision import in_double
from cca.pivots.pivot import Pivot

OBJECTIVE = OBJECTIVES["softplus"]
DAMPING = 1e-3
HELD = 1 << 28
"""Parameters whose gradients are held at a time; those of one layer at least."""


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
    """The circuit of at most ``size``, and at least one component; scores are the promised gain per parameter.

    batch_size: pivots per forward and backward pass, and texts where it is below `MOST_TEXTS`. The gradient is always
    that of `OBJECTIVE` with damping `DAMPING`, whatever objective, anchor and damping the steps are trained with later.
    Gains are compared across layers although each layer's F is divided by its own mean diagonal
    (`cca.gradients.fisher`): the cost is on one scale within a layer only. Raises CcaError
    without texts of other skills, and for kinds that the model lacks.
    """
    promised = torch.zeros(anatomy.size, dtype=torch.float64)
    parameters = torch.zeros(anatomy.size, dtype=torch.int64)
    for group in layer_groups(anatomy, kinds, rows):
        trained = TrainableRows(model, anatomy.rows(group, rows))
        add_pivot_gradient(model, anatomy, trained, pivots, OBJECTIVE, batch_size)
        gradients = {key: leaf.grad for key, leaf in trained.masters.items() if leaf.grad is not None}
        generator = torch.Generator().manual_seed(seed)
        whiten = measure_whitening(
            model, list(trained.rows.values()), texts, DAMPING, generator, min(MOST_TEXTS, batch_size)
        )
        directions = whiten(gradients)
        for key, row in trained.rows.items():
            owners = anatomy.owners(row)
            parameters.index_add_(0, owners, torch.full_like(owners, trained.masters[key].shape[1]))
            if key in gradients:
                gain = in_double(gradients[key] * directions[key]).sum(dim=1).cpu()
                promised.index_add_(0, owners, gain)
    if not parameters.any():
        raise CcaError(
            f"circuit: expected components of kind {', '.join(kinds)} that own rows in mode {rows}, this model has none"
        )
    distributed.broadcast_(promised)
    scores = promised / parameters.clamp_min(1)
    chosen = _fitting(scores, parameters, size, anatomy)
    return Circuit.of(
        [anatomy.component(flat) for flat in chosen],
        "natural",
        {anatomy.component(flat): float(scores[flat]) for flat in chosen},
    )


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
