"""The penalty of a mask, fixed, or found so that the circuit ends at a size asked for.

`DualPenalty` does dual ascent: the penalty is the multiplier of "the expected size is at most the target", and rises
while the circuit is too large and falls while it is too small.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol


class Penalty(Protocol):
    @property
    def value(self) -> float: ...

    def update(self, size: float) -> None:
        """Told the expected number of components in the circuit after a step."""
        ...


@dataclass
class FixedPenalty:
    value: float

    def update(self, size: float) -> None:
        pass


class DualPenalty:
    """The excess, in logarithms of how many times too large the circuit is, drives the penalty's logarithm.

    In logarithms one rate serves targets of ten and of ten thousand, and the penalty stays above zero. What is summed
    up (``rate``) finds the level; what acts at once (``damping``) keeps gates, which Adam moves with momentum, from
    swinging about it.
    """

    def __init__(self, target: float, start: float, rate: float = 0.02, damping: float = 1.0) -> None:
        if target <= 0 or start <= 0:
            raise ValueError(f"expected a target and a start above 0, got {target} and {start}")
        self.target, self.rate, self.damping = target, rate, damping
        self._level, self._excess = math.log(start), 0.0

    @property
    def value(self) -> float:
        return math.exp(self._level + self.damping * self._excess)

    def update(self, size: float) -> None:
        excess = math.log(max(size, 0.1) / self.target)
        self._excess = max(-1.0, min(1.0, excess))
        self._level += self.rate * self._excess
