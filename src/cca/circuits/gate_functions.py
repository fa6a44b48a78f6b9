"""Gate functions: how a gate value m in [0, 1] scales a component's activation.

A new one is one line here. ``neutral`` is the m that changes nothing; the penalty pulls every gate towards 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from cca.errors import CcaError


@dataclass(frozen=True)
class GateFunction:
    factor: Callable[[Tensor], Tensor]
    neutral: float


GATE_FUNCTIONS = {
    "double": GateFunction(lambda m: 2 * m, neutral=0.5),  # the paper's: 0 ablates, 1 doubles
    "amplify": GateFunction(lambda m: 1 + m, neutral=0.0),  # 0 leaves alone, 1 doubles
    "ablate": GateFunction(lambda m: m, neutral=1.0),  # 0 ablates, 1 leaves alone
}


def gate_function(name: str) -> GateFunction:
    if name not in GATE_FUNCTIONS:
        raise CcaError(f"gate function: expected one of {', '.join(GATE_FUNCTIONS)}, got {name!r}")
    return GATE_FUNCTIONS[name]
