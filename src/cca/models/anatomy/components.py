"""A Component: a head of Q, K or V, or an MLP neuron, of one layer. Written ``L3.q5``, ``L3.neuron120``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from cca.errors import CcaError

KINDS = ("q", "k", "v", "neuron")
_WRITTEN = re.compile(r"L(\d{1,9})\.(q|k|v|neuron)(\d{1,18})", re.ASCII)


@dataclass(frozen=True, order=True)
class Component:
    """``index`` counts the heads (or neurons) of that kind within the layer.

    In a mixture of experts the neurons of the routed experts come first, expert by expert
    (index = expert * neurons per expert + neuron), then those of a shared expert.
    """

    layer: int
    kind: str
    index: int

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise CcaError(f"component kind: expected one of {', '.join(KINDS)}, got {self.kind!r}")

    def __str__(self) -> str:
        return f"L{self.layer}.{self.kind}{self.index}"

    @classmethod
    def parse(cls, text: str) -> Component:
        """Read what ``str`` writes. Raises CcaError for anything else."""
        match = _WRITTEN.fullmatch(text)
        if match is None:
            raise CcaError(f"component: expected a name such as L3.q5 or L3.neuron120, got {text!r}")
        layer, kind, index = match.groups()
        return cls(int(layer), kind, int(index))
