"""Objectives that need more than the pivots' gaps, under the same names as the others.

* ``cross-entropy``: -log p(desired), which also pulls against every token that is neither.
* ``dpo`` (arXiv 2305.18290): -log sigmoid(beta * (gap - base gap)). Of one token the log-probabilities' normaliser
  cancels, so the logit gaps are all it takes; the reference is the model as it stands when the objective is made.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from cca.errors import CcaError
from cca.gradients.objectives import OBJECTIVES, LogitObjective, Objective, objective
from cca.gradients.pivot_forward import PivotForward
from cca.models.anatomy.anatomy import Anatomy
from cca.pivots.pivot import Pivot

BEYOND_GAPS = ("cross-entropy", "dpo")
ALL_OBJECTIVES = (*OBJECTIVES, *BEYOND_GAPS)


class CrossEntropy:
    def __init__(self, pivots: Sequence[Pivot]) -> None:
        self.desired = torch.tensor([pivot.desired for pivot in pivots])

    def of_logits(self, logits: Tensor, gaps: Tensor, pivots: Sequence[int]) -> Tensor:
        """Logits (B, V) of the pivots of these numbers -> losses (B,)."""
        del gaps
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return functional.cross_entropy(wide, self.desired[list(pivots)].to(logits.device), reduction="none")


class DirectPreference:
    def __init__(self, base_gaps: Tensor, beta: float) -> None:
        if beta <= 0:
            raise CcaError(f"dpo: expected beta above 0, got {beta}")
        self.base_gaps, self.beta = base_gaps, beta

    def of_logits(self, logits: Tensor, gaps: Tensor, pivots: Sequence[int]) -> Tensor:
        """Gaps (B,) of the pivots of these numbers -> losses (B,)."""
        del logits
        return functional.softplus(-self.beta * (gaps - self.base_gaps[list(pivots)].to(gaps)))


def pivot_objective(
    name: str, model: PreTrainedModel, anatomy: Anatomy, pivots: Sequence[Pivot], beta: float = 1.0
) -> Objective | LogitObjective:
    """The objective of this name on these pivots. Raises CcaError for an unknown name."""
    if name == "cross-entropy":
        return CrossEntropy(pivots)
    if name == "dpo":
        return DirectPreference(untouched_gaps(model, anatomy, pivots), beta)
    if name not in OBJECTIVES:
        raise CcaError(f"objective: expected one of {', '.join(ALL_OBJECTIVES)}, got {name!r}")
    return objective(name)


def untouched_gaps(
    model: PreTrainedModel, anatomy: Anatomy, pivots: Sequence[Pivot], batch_size: int = 32
) -> Tensor:
    """The logit gap of each pivot as the model stands, (P,), in float32 or wider."""
    forward = PivotForward(model, anatomy, pivots, batch_size)
    dtype = torch.promote_types(model.dtype, torch.float32)
    gaps = torch.zeros(len(pivots), dtype=dtype, device=model.device)
    factors = torch.ones(anatomy.size, dtype=dtype, device=model.device)
    with torch.no_grad():
        for batch in range(forward.batches):
            gaps[forward.rows(batch)] = forward.gaps(batch, factors)
    return gaps
