"""A judge reads the answer out of a completion and compares it with the gold answer.

The verdict is the training signal, so two rules bind every judge here. *Unreadable* is apart from *wrong*: no
answer was given, or none could be read. And `Judge.finished` is safe: once it is True for a text, the verdict
on that text is the verdict on every continuation of it, so decoding may stop there.

`cca.problems.judges` lists the judges by name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class Verdict(StrEnum):
    RIGHT = "right"
    WRONG = "wrong"
    UNREADABLE = "unreadable"


@dataclass(frozen=True)
class Judgement:
    verdict: Verdict
    answer: str | None
    """The answer as read from the completion, in the judge's own notation; None when it was unreadable."""


UNREADABLE = Judgement(Verdict.UNREADABLE, None)


def judgement(answer: str, right: bool) -> Judgement:
    return Judgement(Verdict.RIGHT if right else Verdict.WRONG, answer)


class Judge(Protocol):
    name: str

    def __call__(self, text: str, gold: str, *, cut_off: bool = False) -> Judgement:
        """Judge the completion ``text`` (without its prompt) against the gold answer. Never raises on a text.

        ``cut_off``: it stopped at its token limit, so that only a closed statement of its answer counts.
        """
        ...

    def finished(self, text: str) -> bool:
        """True once no continuation of ``text`` can change the verdict. Cheap: called while decoding."""
        ...

    def check_gold(self, gold: str) -> None:
        """Raise CcaError when this judge cannot read ``gold``."""
        ...


class StoppingJudge:
    """``judge``, shown the text before the first of ``stops`` only."""

    def __init__(self, judge: Judge, stops: Sequence[str]) -> None:
        self.judge = judge
        self.stops = tuple(stops)
        self.name = judge.name

    def __call__(self, text: str, gold: str, *, cut_off: bool = False) -> Judgement:
        kept = self.kept(text)
        if cut_off and kept == text:
            return self.judge(text, gold, cut_off=True)
        return self.judge(kept, gold)

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


def join_digits(text: str) -> str:
    """Undo the spaces of a word-level tokenizer: ``4 2 .`` becomes ``42.``

    Joins digits that stand alone and are one space apart, and drops the space before punctuation. For texts
    decoded by such tokenizers only: elsewhere ``1 2 3`` is three numbers. Judges never call it.
    """
    text = re.sub(r"(?<![\w.])\d(?: \d)+(?!\w)", lambda match: match[0].replace(" ", ""), text)
    return re.sub(r"(?<=\S) (?=[.,;:!?%)\]}])", "", text)
