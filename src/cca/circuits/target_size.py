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
    """Ascent on the penalty's logarithm, by ``rate`` times the logarithm of how many times too large the circuit is.

    In logarithms one rate serves targets of ten and of ten thousand, and the penalty stays above zero.
    """

    def __init__(self, target: float, start: float, rate: float = 0.05, longest: float = 1.0) -> None:
        if target <= 0 or start <= 0:
            raise ValueError(f"expected a target and a start above 0, got {target} and {start}")
        self.target, self.rate, self.longest = target, rate, longest
        self._log = math.log(start)

    @property
    def value(self) -> float:
        return math.exp(self._log)

    def update(self, size: float) -> None:
        excess = math.log(max(size, 0.1) / self.target)
        self._log += self.rate * max(-self.longest, min(self.longest, excess))
