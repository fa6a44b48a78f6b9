"""Integrated attribution: the gate gradient averaged along the way from all gates at 0 to all at 1 (arXiv 1703.01365).

Score of component i = the integral over a in [0, 1] of d mean(logit gap) / d factor_i at factors (a, ..., a). Scores
sum to the mean gap of the model less that of the model whose components are all ablated: they share the whole effect
out, where the gradient at 1 alone sees only a small step. Gauss-Legendre points, so that few are needed.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from cca.engines.engine import Progress
from cca.errors import CcaError
from cca.gradients.pivot_forward import PivotForward

POINTS = 16


def integrated_gradient(
    forward: PivotForward, points: int = POINTS, progress: Progress | None = None
) -> Tensor:
    """The scores, (anatomy.size,) in float32 or wider, on the CPU. ``progress`` counts points.

    Costs ``points`` forward and backward passes of one token a pivot. Raises CcaError when they are not finite.
    """
    if points < 1:
        raise CcaError(f"integrated attribution: expected at least 1 point, got {points}")
    nodes, weights = np.polynomial.legendre.leggauss(points)  # on [-1, 1]
    dtype = torch.promote_types(forward.model.dtype, torch.float32)
    total = torch.zeros(forward.anatomy.size, dtype=dtype, device=forward.model.device)
    for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        factors = torch.full_like(total, float(node)).requires_grad_()
        for batch in range(forward.batches):
            (gradient,) = torch.autograd.grad(forward.gaps(batch, factors).sum(), factors)
            total += float(weight) * gradient
        if progress:
            progress(1)
    if not bool(total.isfinite().all()):
        raise CcaError(
            "integrated attribution: expected finite gradients, got some that are not; is the model sound?"
        )
    return (total / len(forward.last)).cpu()
