"""What a rehearsal found: the grounds of a plan."""

from __future__ import annotations

from dataclasses import dataclass, field

from cca.runs.decoding_cost import Call, Speed
from cca.runs.session import Session


@dataclass
class Rehearsal:
    """What was metered. ``locating`` and ``stepping`` are (with `few` pivots, with all): two points of a line."""

    session: Session
    problems: int = 0
    right: float = 0.0
    pairs: int = 0
    found: int = 0
    traced: list[Call] = field(default_factory=list)
    walked: list[Call] = field(default_factory=list)
    retention: dict[str, Call] = field(default_factory=dict)
    speed: Speed = field(default_factory=lambda: Speed((0.0, 0.0, 0.0, 0.0, 0.0)))
    beside: float = 0.0
    """Seconds a traced problem beside decoding: prompts, judging."""
    reading: float = 0.0
    """Seconds a pair of traces beside decoding: one forward pass over the sampled trace."""
    pivots: int = 0
    pivot_tokens: float = 0.0
    locating: tuple[float, float] = (0.0, 0.0)
    stepping: tuple[float, float] = (0.0, 0.0)
    """Of one step."""
    whitening: float = 0.0
    """Seconds from the start of amplify to its first step: the Fisher information of other text."""
    spared_tokens: int = 0
    """Tokens of the texts that it is measured on."""
    probing: float = 0.0
    """Seconds a problem whose solution drift is measured on."""
    anew: dict[str, float] = field(default_factory=dict)
    """Share of the base's answers, in tokens, that the metered steps wrote anew: of the task's, of other skills'."""
    base_bytes: dict[str, int] = field(default_factory=dict)
    piece_bytes: dict[str, dict[str, int]] = field(default_factory=dict)
    """Bytes each piece took at its peak beside the base, by device."""

    @property
    def few(self) -> int:
        """An eighth of the pivots: a natural circuit takes most of its time on other text, so that a line through
        counts nearer to each other would mostly show the noise of the clock."""
        return max(1, self.pivots // 8)
