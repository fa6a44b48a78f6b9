"""Trainings that outlive their process: all that changes while one goes on, as one value to keep and to restore."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from cca.files import Row


@dataclass(frozen=True)
class TrainingState:
    """Tensors on the CPU, and ``facts`` that JSON can hold (not-a-number and infinities included)."""

    tensors: Mapping[str, Tensor]
    facts: Row = field(default_factory=dict)


class Keeper(Protocol):
    """Keeps one training's latest state."""

    def load(self) -> TrainingState | None:
        """What an earlier process with the same settings left, if anything."""
        ...

    def save(self, state: TrainingState) -> None: ...


def optimiser_tensors(optimiser: torch.optim.Optimizer, leaf: Tensor) -> dict[str, Tensor]:
    """What an optimiser such as Adam remembers of one leaf that it has stepped."""
    return {name: value.cpu() for name, value in optimiser.state[leaf].items()}


def restore_optimiser(optimiser: torch.optim.Optimizer, leaf: Tensor, tensors: Mapping[str, Tensor]) -> None:
    # a count of steps is a number, and stays on the CPU
    optimiser.state[leaf] = {
        name: value if value.dim() == 0 else value.to(leaf) for name, value in tensors.items()
    }
