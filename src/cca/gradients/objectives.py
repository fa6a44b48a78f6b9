"""Objectives: what an amplify step minimises at the pivots.

* ``logit-gap`` (the paper's): minus the gap logit(desired) - logit(undesired); unbounded, so it overshoots.
* ``softplus``: log(1 + exp(-gap)); a pivot stops pulling once its gap is wide.
* ``cross-entropy``: -log p(desired), which also pulls against every token that is neither.
* ``dpo`` (arXiv 2305.18290): -log sigmoid(beta * (gap - base gap)). For one token the normalisers of the
  log-probabilities cancel, so logit gaps suffice; the reference is the model as it is when the objective is made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from cca.errors import CcaError
from cca.gradients.pivot_forward import PivotForward
from cca.models.anatomy.anatomy import Anatomy
from cca.pivots.pivot import Pivot

Objective = Callable[[Tensor], Tensor]
"""Gaps (B,) -> losses (B,)."""


@runtime_checkable
class LogitObjective(Protocol):
    """An objective that needs more than the gaps."""

    def of_logits(self, logits: Tensor, gaps: Tensor, pivots: Sequence[int]) -> Tensor:
        """Logits (B, V) and gaps (B,) of the pivots with these numbers -> losses (B,)."""
        ...


OBJECTIVES: dict[str, Objective] = {
    "logit-gap": lambda gaps: -gaps,
    "softplus": lambda gaps: functional.softplus(-gaps),
}
"""Objectives that need the gaps alone."""


class CrossEntropy:
    def __init__(self, pivots: Sequence[Pivot]) -> None:
        self.desired = torch.tensor([pivot.desired for pivot in pivots])

    def of_logits(self, logits: Tensor, gaps: Tensor, pivots: Sequence[int]) -> Tensor:
        """Logits (B, V) of the pivots with these numbers -> losses (B,) in float32 or wider, in nats."""
        del gaps
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return functional.cross_entropy(wide, self.desired[list(pivots)].to(logits.device), reduction="none")


class DirectPreference:
    def __init__(self, base_gaps: Tensor, beta: float) -> None:
        if beta <= 0:
            raise CcaError(f"dpo: expected beta above 0, got {beta}")
        self.base_gaps, self.beta = base_gaps, beta

    def of_logits(self, logits: Tensor, gaps: Tensor, pivots: Sequence[int]) -> Tensor:
        """Gaps (B,) of the pivots with these numbers -> losses (B,) (arXiv 2305.18290, eq. 7)."""
        del logits
        return functional.softplus(-self.beta * (gaps - self.base_gaps[list(pivots)].to(gaps)))


def make_objective(
    name: str, model: PreTrainedModel, anatomy: Anatomy, pivots: Sequence[Pivot], beta: float = 1.0
) -> Objective | LogitObjective:
    """The objective with this name on these pivots; make it while the model is untouched.

    Raises CcaError for an unknown name.
    """
    if name == "cross-entropy":
        return CrossEntropy(pivots)
    if name == "dpo":
        return DirectPreference(base_gaps(model, anatomy, pivots), beta)
    if name not in OBJECTIVES:
        known = ", ".join((*OBJECTIVES, "cross-entropy", "dpo"))
        raise CcaError(f"objective: expected one of {known}, got {name!r}")
    return OBJECTIVES[name]


@torch.no_grad()
def base_gaps(model: PreTrainedModel, anatomy: Anatomy, pivots: Sequence[Pivot], batch_size: int = 32) -> Tensor:
    """The logit gap of each pivot in the model as it is, (P,), in float32 or wider."""
    forward = PivotForward(model, anatomy, pivots, batch_size)
    dtype = torch.promote_types(model.dtype, torch.float32)
    gaps = torch.zeros(len(pivots), dtype=dtype, device=model.device)
    factors = torch.ones(anatomy.size, dtype=dtype, device=model.device)
    for batch in range(forward.batches):
        gaps[forward.rows(batch)] = forward.gaps(batch, factors)
    return gaps
