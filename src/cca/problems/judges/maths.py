"""The math judge: symbolic equality of the stated answer and the gold answer, decided by math-verify.

Two strict numerals are compared exactly by the number judge's rules. Everything else goes to math-verify in a helper
process: sympy may think for ever about one expression and its own timeout works in the main thread only. An answer
that is not decided in time counts as wrong, in the helper as in the literature.
"""

from __future__ import annotations

import re
from functools import lru_cache
from importlib.util import find_spec

from cca.errors import CcaError
from cca.problems.judges.judge import UNREADABLE, Judgement, judgement
from cca.problems.judges.maths_worker import Helper
from cca.problems.judges.numbers import read_number
from cca.problems.judges.quantities import Quantity
from cca.problems.judges.reading import Reader
from cca.problems.judges.statements import REACH, Statement, boxed
from cca.problems.judges.typography import plain

_INLINE = re.compile(r"\$\$?([^$]{1,400})\$\$?|\\\((.{1,400}?)\\\)|\\\[(.{1,400}?)\\\]", re.DOTALL)
_UNITS = re.compile(r"\\(?:text|mbox)[ ]?\{[^{}]*\}|\\mathrm[ ]?\{[ ]*[^{}\s][^{}]+\}|\^?\{?\\circ\}?")
_UPRIGHT = re.compile(r"\\(?:mathrm|rm)[ ]?\{[ ]*([A-Za-z])[ ]*\}")
"""A letter set upright, as e and i often are, which math-verify cannot read."""
_GROUPING = re.compile(r"(?<=\d)(?:\{,\}|\\,|\\!,?\\?!?|,\\!|\\ |~)(?=\d{3}(?!\d))")
_NUMERAL = re.compile(
    r"[-+]?(?:\\?\$)?"
    r"(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+|\d*\\[dt]?frac\{?\d+\}?\{?\d+\}?|\d+/\d+)[ ]?(?:\\?%)?\.?"
)
_HEAD_NUMERAL = re.compile(
    r"[\s*_:~]*(-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?\\?%?)"
    r"(?=\.?\s*\Z|,?[ ](?:because|since|as|where|when|if|for|so)\b|[ ]\(|;[ ])"
)
"""A number that a statement begins with and its reasons follow: "12, since $a = 3$"."""
_FARTHEST = 4000
"""How far from the end a formula is looked for in a text that states no answer, in characters."""
_OUTER = " \t\n.,;:?*_`$"


class MathJudge(Reader[str]):
    """``seconds`` bounds one comparison."""

    name = "math"

    def __init__(self, *, seconds: float = 5.0, thinking: bool = False, final: bool = True) -> None:
        super().__init__(thinking=thinking, final=final)
        if find_spec("math_verify") is None:
            raise CcaError("judge 'math' needs math-verify: pip install -e \".[math]\"")
        if not seconds > 0:
            raise CcaError(f"judge 'math': expected seconds above 0, got {seconds!r}")
        self.helper = Helper(seconds)

    def __call__(self, text: str, gold: str, *, cut_off: bool = False) -> Judgement:
        wanted = _gold(gold)
        answer = self.read(text, cut_off)
        if answer is None:
            return UNREADABLE
        return judgement(answer, self._equal(answer, wanted))

    def check_gold(self, gold: str) -> None:
        if not self.helper.readable(_gold(gold)):
            raise CcaError(f"judge 'math': expected a gold answer that math-verify can parse, got {gold!r}")

    def read_statement(self, statement: Statement) -> str | None:
        if statement.denies:
            return None
        return _expression(statement.text)

    def read_whole(self, text: str, cut_off: bool = False) -> str | None:
        """The last formula of the text, else what its last line says after "="."""
        if cut_off:
            return None
        formulas = list(_INLINE.finditer(text[-_FARTHEST:]))
        if formulas:
            return _inner(formulas[-1])
        line = text.rstrip().rpartition("\n")[2].rpartition("=")[2].strip(_OUTER)
        return line if len(line) <= REACH and re.search(r"\d", line) else None

    def _equal(self, answer: str, gold: str) -> bool:
        answer, gold = _tidy(answer), _tidy(gold)
        if answer == gold:
            return True
        mine, theirs = _number(answer), _number(gold)
        if mine is not None and theirs is not None:
            return mine.matches(theirs)
        return self.helper.equal(answer, gold)


def _expression(text: str) -> str | None:
    box = boxed(text)
    if box is None:
        formula, head = _INLINE.search(text), _HEAD_NUMERAL.match(text)
        box = head[1] if head else text.rstrip("!") if formula is None else _inner(formula)
    box = box.strip(_OUTER)
    return box or None


def _inner(formula: re.Match[str]) -> str:
    return next(group for group in formula.groups() if group is not None).strip()


def _tidy(text: str) -> str:
    """``text`` with single letters set in italics and one space for runs of them."""
    return " ".join(_UPRIGHT.sub(r" \1 ", plain(text)).split())


@lru_cache(maxsize=4096)
def _number(text: str) -> Quantity | None:
    """``text`` as a number, when it is one strict numeral with a unit at most; all else is math-verify's."""
    text = _GROUPING.sub(",", _UNITS.sub("", text)).strip()
    return read_number(text) if _NUMERAL.fullmatch(text) else None


@lru_cache(maxsize=4096)
def _gold(gold: str) -> str:
    box = boxed(gold)
    text = (gold.rpartition("####")[2] if box is None else box).strip().strip("$").strip()
    if not text:
        raise CcaError(f"judge 'math': expected a gold answer, got {gold!r}")
    return text
