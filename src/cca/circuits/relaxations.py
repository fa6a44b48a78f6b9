"""Relaxations of the yes or no for every component to a gate that a gradient can move.

A relaxation owns the trained parameter of each gate. It gives gates in [0, 1] for a step, the expected size of the
circuit, and the final gates. A new one is one class and one line.

* ``clamp`` (the paper): the parameter is the gate, clamped to [0, 1] after each step; size is the sum of the gates.
* ``hard-concrete`` (L0, arXiv 1712.01312): the gate is a stretched, clamped binary concrete draw; size is the expected
  number of gates that are not 0; in the end the gate is the stretched sigmoid without noise.
* ``annealed``: a sigmoid whose temperature falls to nearly 0, so that gates end as good as binary (as in DAIS,
  arXiv 2011.02166); size is the sum of the gates.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from cca.errors import CcaError

EDGE = 1e-3


class Relaxation(Protocol):
    parameters: Tensor
    """(size,), the leaf that trains."""

    def gates(self, progress: float, generator: torch.Generator) -> Tensor:
        """Gates in [0, 1] for one step, (size,); ``progress`` runs from 0 to 1 over the training."""
        ...

    def sizes(self, progress: float) -> Tensor:
        """The expected contribution of each component to the circuit's size, in [0, 1], differentiable, (size,)."""
        ...

    def after_step(self, progress: float) -> None: ...

    def final(self) -> Tensor:
        """Gates in [0, 1] without noise, (size,)."""
        ...


class Clamp:
    def __init__(self, size: int, initial: float, dtype: torch.dtype, device: torch.device) -> None:
        self.parameters = torch.full((size,), initial, dtype=dtype, device=device).requires_grad_()

    def gates(self, progress: float, generator: torch.Generator) -> Tensor:
        del progress, generator
        return self.parameters

    def sizes(self, progress: float) -> Tensor:
        """|m| as published: at 0 it has no gradient, so only its own gap keeps a closed gate down."""
        del progress
        return self.parameters.abs()

    def after_step(self, progress: float) -> None:
        del progress
        with torch.no_grad():
            self.parameters.clamp_(0, 1)

    def final(self) -> Tensor:
        return self.parameters.detach()


class HardConcrete:
    """Louizos et al. 2018: temperature 2/3, stretched to (-0.1, 1.1)."""

    TEMPERATURE, LOW, HIGH = 2 / 3, -0.1, 1.1

    def __init__(self, size: int, initial: float, dtype: torch.dtype, device: torch.device) -> None:
        stretched = (min(max(initial, EDGE), 1 - EDGE) - self.LOW) / (self.HIGH - self.LOW)
        start = math.log(stretched / (1 - stretched))
        self.parameters = torch.full((size,), start, dtype=dtype, device=device).requires_grad_()

    def gates(self, progress: float, generator: torch.Generator) -> Tensor:
        del progress
        uniform = torch.rand(self.parameters.shape, generator=generator, dtype=torch.float64)
        noise = uniform.clamp(1e-6, 1 - 1e-6).logit().to(self.parameters)
        return self._stretched(((noise + self.parameters) / self.TEMPERATURE).sigmoid())

    def sizes(self, progress: float) -> Tensor:
        """The probability of a gate that is not 0."""
        del progress
        return (self.parameters - self.TEMPERATURE * math.log(-self.LOW / self.HIGH)).sigmoid()

    def after_step(self, progress: float) -> None:
        pass

    def final(self) -> Tensor:
        return self._stretched(self.parameters.detach().sigmoid())

    def _stretched(self, x: Tensor) -> Tensor:
        return (x * (self.HIGH - self.LOW) + self.LOW).clamp(0, 1)


class Annealed:
    """Temperature from 1 down to ``LAST``, geometrically.

    Parameters stay within ``REACH`` temperatures of 0: further out a sigmoid has no gradient to come back by.
    """

    LAST, REACH = 0.1, 6.0

    def __init__(self, size: int, initial: float, dtype: torch.dtype, device: torch.device) -> None:
        inside = min(max(initial, 0.05), 0.95)  # further out a sigmoid hardly moves
        start = math.log(inside / (1 - inside))
        self.parameters = torch.full((size,), start, dtype=dtype, device=device).requires_grad_()

    def gates(self, progress: float, generator: torch.Generator) -> Tensor:
        del generator
        return (self.parameters / self.LAST**progress).sigmoid()

    def sizes(self, progress: float) -> Tensor:
        return (self.parameters / self.LAST**progress).sigmoid()

    def after_step(self, progress: float) -> None:
        reach = self.REACH * self.LAST**progress
        with torch.no_grad():
            self.parameters.clamp_(-reach, reach)

    def final(self) -> Tensor:
        return (self.parameters.detach() / self.LAST).sigmoid()


RELAXATIONS = {"clamp": Clamp, "hard-concrete": HardConcrete, "annealed": Annealed}


def relaxation(
    name: str, size: int, initial: float, dtype: torch.dtype, device: torch.device | str = "cpu"
) -> Relaxation:
    """Gates that all start at ``initial``. Raises CcaError for an unknown name."""
    if name not in RELAXATIONS:
        raise CcaError(f"relaxation: expected one of {', '.join(RELAXATIONS)}, got {name!r}")
    return RELAXATIONS[name](size, initial, dtype, torch.device(device))
