"""Stop strings: a completion ends at the first of them, for the verdict as for decoding."""

from __future__ import annotations

from collections.abc import Sequence

from cca.problems.judges.judge import Judge, Judgement


class StoppingJudge:
    """``judge``, shown the text before the first of ``stops`` only."""

    def __init__(self, judge: Judge, stops: Sequence[str]) -> None:
        self.judge = judge
        self.stops = tuple(stops)
        self.name = judge.name

    def __call__(self, text: str, gold: str) -> Judgement:
        return self.judge(self.kept(text), gold)

    def finished(self, text: str) -> bool:
        if any(stop in text for stop in self.stops):
            return True
        # The end of the text may be the beginning of a stop, and is then cut away from a continuation.
        return self.judge.finished(text[: len(text) - self._begun(text)])

    def check_gold(self, gold: str) -> None:
        self.judge.check_gold(gold)

    def kept(self, text: str) -> str:
        """``text`` up to its first stop."""
        found = [at for at in (text.find(stop) for stop in self.stops) if at >= 0]
        return text[: min(found)] if found else text

    def _begun(self, text: str) -> int:
        """The longest end of ``text``, in characters, that is a beginning of a stop."""
        lengths = (
            length
            for stop in self.stops
            for length in range(min(len(stop) - 1, len(text)), 0, -1)
            if text.endswith(stop[:length])
        )
        return max(lengths, default=0)
