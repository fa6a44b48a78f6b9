"""What an amplify step minimises, as a function of the pivots' logit gaps logit(desired) - logit(undesired)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor
from torch.nn import functional

from cca.errors import CcaError

Objective = Callable[[Tensor], Tensor]
"""Gaps (B,) -> losses (B,)."""


@runtime_checkable
class LogitObjective(Protocol):
    """An objective that the gaps alone do not give."""

    def of_logits(self, logits: Tensor, gaps: Tensor, pivots: Sequence[int]) -> Tensor:
        """Logits (B, V) and gaps (B,) of the pivots of these numbers -> losses (B,)."""
        ...


OBJECTIVES: dict[str, Objective] = {
    "logit-gap": lambda gaps: -gaps,  # the paper's; unbounded, so it overshoots
    "softplus": lambda gaps: functional.softplus(-gaps),  # a pivot stops pulling once its gap is wide
}


def objective(name: str) -> Objective:
    if name not in OBJECTIVES:
        raise CcaError(f"objective: expected one of {', '.join(OBJECTIVES)}, got {name!r}")
    return OBJECTIVES[name]
