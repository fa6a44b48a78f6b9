"""Attribution: how much the mean logit gap of the pivots would change if a component's gate moved off "no change".

The score is the gradient of mean(logit(desired) - logit(undesired)) with respect to the gate factors at 1, at the
last position of the pivots' prefixes: one backward pass of one token per pivot. ``absolute`` ranks by its size,
``signed`` by its value, so that amplifying what it takes helps.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from cca.circuits.circuit import Circuit
from cca.circuits.size import Size
from cca.engines.engine import Progress
from cca.errors import CcaError
from cca.gradients.pivot_forward import PivotForward
from cca.models.anatomy.anatomy import Anatomy
from cca.models.anatomy.components import Component
from cca.models.forward.frozen import frozen
from cca.pivots.pivot import Pivot

SIGNS = ("absolute", "signed")


def gate_gradient(
    model: PreTrainedModel,
    anatomy: Anatomy,
    pivots: Sequence[Pivot],
    batch_size: int = 32,
    progress: Progress | None = None,
) -> Tensor:
    """d mean(logit gap) / d factor at factor 1, (anatomy.size,) in float32 or wider. ``progress`` counts pivots."""
    if not pivots:
        raise CcaError("attribution: expected at least one pivot, got none")
    forward = PivotForward(model, anatomy, pivots, batch_size)
    factors = torch.ones(
        anatomy.size, dtype=torch.promote_types(model.dtype, torch.float32), device=model.device
    )
    factors.requires_grad_()
    total = torch.zeros_like(factors)
    with frozen(model):
        for batch in range(forward.batches):
            gaps = forward.gaps(batch, factors)
            (gradient,) = torch.autograd.grad(gaps.sum(), factors)
            total += gradient
            if progress:
                progress(len(gaps))
    if not bool(total.isfinite().all()):
        raise CcaError(
            "attribution: expected finite gradients, got some that are not; is the model itself sound?"
        )
    return (total / len(pivots)).cpu()


def attribution_circuit(
    gradient: Tensor, anatomy: Anatomy, sign: str, kinds: Sequence[str], size: Size, rows: str
) -> Circuit:
    """The components of highest score, heads and neurons ranked apart (their gradients are on different scales)."""
    if sign not in SIGNS:
        raise CcaError(f"attribution: expected sign to be one of {', '.join(SIGNS)}, got {sign!r}")
    scores = gradient.abs() if sign == "absolute" else gradient
    return top_scored(scores, anatomy, f"attribution-{sign}", kinds, size, rows)


def top_scored(
    scores: Tensor, anatomy: Anatomy, method: str, kinds: Sequence[str], size: Size, rows: str
) -> Circuit:
    """The circuit of the size asked for with the highest ``scores`` (anatomy.size,) within each kind."""
    components: dict[Component, float] = {}
    for kind, count in size.counts(anatomy, kinds, rows).items():
        own = list(anatomy.components([kind]))
        where = torch.tensor([anatomy.index(component) for component in own])
        for place in scores[where].topk(min(count, len(own))).indices.tolist():
            components[own[place]] = float(scores[where[place]])
    return Circuit.of(components, method, components)
