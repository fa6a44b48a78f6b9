"""The penalty of a mask, fixed, or found so that the circuit ends at a size asked for.

`DualPenalty` does dual ascent: the penalty is the multiplier of "the expected size is at most the target", and rises
while the circuit is too large and falls while it is too small.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol


class Penalty(Protocol):
    state: tuple[float, ...]
    """All that updates change; a penalty that is given another's goes on as that one would."""

    @property
    def value(self) -> float: ...

    def update(self, size: float) -> None:
        """Told the expected number of components in the circuit after a step."""
        ...


@dataclass
class FixedPenalty:
    value: float
    state: tuple[float, ...] = ()

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
        self.state: tuple[float, ...] = (math.log(start), 0.0)
        """The level, and the last excess."""

    @property
    def value(self) -> float:
        level, excess = self.state
        return math.exp(level + self.damping * excess)

    def update(self, size: float) -> None:
        excess = max(-1.0, min(1.0, math.log(max(size, 0.1) / self.target)))
        self.state = (self.state[0] + self.rate * excess, excess)
