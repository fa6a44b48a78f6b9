"""Attribution: how much the mean logit gap of the pivots changes with the gate of each component.

* `gate_gradient`: the gradient of mean(logit(desired) - logit(undesired)) with respect to the gate factors at 1 ("no
  change"), at the last position of the pivots' prefixes: one backward pass of one token per pivot.
* `integrated_gradient`: that gradient averaged along the way from all gates at 0 to all at 1 (arXiv 1703.01365).
  Scores sum to the mean gap of the model minus that of the model whose components are all ablated: they share out the
  whole effect, where the gradient at 1 sees only a small step.

Ranked by size (``absolute``), or by value (``signed``): then amplifying the chosen components helps.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from cca import distributed
from cca.circuits.circuit import Circuit
from cca.circuits.settings import Size
from cca.engines.engine import Progress
from cca.errors import CcaError
from cca.gradients.pivot_forward import PivotForward
from cca.gradients.sampled_likelihood import MOST_TEXTS, Text, deal_batches, sampled_log_likelihood, usable_texts
from cca.models.anatomy.anatomy import Anatomy
from cca.models.anatomy.components import Component
from cca.models.forward.gates import frozen_weights, gated
from cca.models.precision import wide_dtype
from cca.pivots.pivot import Pivot

SIGNS = ("absolute", "signed")
POINTS = 16


def gate_gradient(
    model: PreTrainedModel,
    anatomy: Anatomy,
    pivots: Sequence[Pivot],
    batch_size: int = 32,
    progress: Progress | None = None,
) -> Tensor:
    """d mean(logit gap) / d factor at factor 1, (anatomy.size,) in float32 or wider, on the CPU; logits per factor.

    ``progress`` counts pivots. Raises CcaError without pivots, and when the gradient is not finite.
    """
    forward = PivotForward(model, anatomy, pivots, batch_size)
    total = _empty(forward)
    _add_gradient(total, forward, at=1.0, progress=progress)
    return _finite(total / len(pivots)).cpu()


def integrated_gradient(forward: PivotForward, points: int = POINTS) -> Tensor:
    """Integrated gradients of the mean logit gap, (anatomy.size,) in float32 or wider, on the CPU; in logits.

    Score i = the integral over a in [0, 1] of d mean(logit gap) / d factor_i at factors (a, ..., a) (arXiv 1703.01365,
    eq. 1), at ``points`` Gauss-Legendre points: as many forward and backward passes of one token per pivot.
    Raises CcaError without points, and when the scores are not finite.
    """
    if points < 1:
        raise CcaError(f"integrated attribution: expected at least 1 point, got {points}")
    nodes, weights = np.polynomial.legendre.leggauss(points)  # on [-1, 1]
    total = _empty(forward)
    for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        _add_gradient(total, forward, at=float(node), weight=float(weight))
    return _finite(total / len(forward.last)).cpu()


def attribution_circuit(
    gradient: Tensor, anatomy: Anatomy, sign: str, kinds: Sequence[str], size: Size, rows: str
) -> Circuit:
    """The components with the highest scores of a gradient (anatomy.size,).

    Raises CcaError for an unknown sign.
    """
    return top_scored(ranked_by(gradient, sign), anatomy, f"attribution-{sign}", kinds, size, rows)


def ranked_by(gradient: Tensor, sign: str) -> Tensor:
    """The scores that ``sign`` ranks by, of the same shape as the gradient. Raises CcaError for an unknown sign."""
    if sign not in SIGNS:
        raise CcaError(f"attribution: expected sign to be one of {', '.join(SIGNS)}, got {sign!r}")
    return gradient.abs() if sign == "absolute" else gradient


def top_scored(scores: Tensor, anatomy: Anatomy, method: str, kinds: Sequence[str], size: Size, rows: str) -> Circuit:
    """The circuit of the requested size with the highest ``scores`` (anatomy.size,) within each kind.

    Heads and neurons are ranked apart: their scores are on different scales. ``rows`` is the row mode by which
    parameters are counted.
    """
    components: dict[Component, float] = {}
    for kind, count in size.counts(anatomy, kinds, rows).items():
        own = list(anatomy.components([kind]))
        own_scores = scores[torch.tensor([anatomy.index(component) for component in own])]
        for index in own_scores.topk(min(count, len(own))).indices.tolist():
            components[own[index]] = float(own_scores[index])
    return Circuit.of(components, method, components)


def _empty(forward: PivotForward) -> Tensor:
    return torch.zeros(forward.anatomy.size, dtype=wide_dtype(forward.model.dtype), device=forward.model.device)


def _add_gradient(
    total: Tensor, forward: PivotForward, at: float, weight: float = 1.0, progress: Progress | None = None
) -> None:
    """Add weight * d sum(logit gap) / d factor with all factors at ``at`` to ``total``; ``progress`` counts pivots."""
    factors = torch.full_like(total, at).requires_grad_()
    with frozen_weights(forward.model):
        for batch in range(forward.batches):
            gaps = forward.gaps(batch, factors)
            (gradient,) = torch.autograd.grad(gaps.sum(), factors)
            total += weight * gradient
            if progress:
                progress(len(gaps))


def _finite(gradient: Tensor) -> Tensor:
    if not bool(gradient.isfinite().all()):
        raise CcaError("attribution: expected finite gradients, got some that are not; check the model's weights")
    return gradient


DAMPING = 0.01


def gate_fisher(
    model: PreTrainedModel,
    anatomy: Anatomy,
    texts: Sequence[Text],
    generator: torch.Generator,
    batch_size: int = MOST_TEXTS,
    samples: int = 1,
) -> Tensor:
    """Sampled diagonal Fisher information of the gates, (anatomy.size,) in float32 or wider, on the CPU.

    In nats per solution token and squared factor. Every text is sampled ``samples`` times. Raises CcaError without
    texts.
    """
    texts = usable_texts(texts, "selective")
    like = {"dtype": wide_dtype(model.dtype), "device": model.device}
    total = torch.zeros(anatomy.size, **like)
    with frozen_weights(model):
        for batch, own_generator, counts in deal_batches(model, texts, batch_size, samples, generator):
            factors = torch.ones(len(batch), anatomy.size, requires_grad=True, **like)
            with gated(model, anatomy, factors, positions="all"):
                likelihood = sampled_log_likelihood(model, batch, own_generator)
            (gradient,) = torch.autograd.grad(likelihood, factors)  # a row per text
            if counts:
                total += gradient.square().sum(dim=0)
    distributed.all_reduce_(total)
    return (total / (samples * sum(len(solution) for _, solution in texts))).cpu()


def selective_scores(gradient: Tensor, fisher: Tensor, damping: float = DAMPING) -> Tensor:
    """|gradient| / sqrt(fisher + damping * mean fisher), (anatomy.size,)."""
    return gradient.abs() / (fisher + damping * fisher.mean()).clamp_min(torch.finfo(fisher.dtype).tiny).sqrt()
