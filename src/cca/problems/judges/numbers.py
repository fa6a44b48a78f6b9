"""The number judge: one final number, compared exactly. `quantities.Quantity` says which spellings are equal.

In a statement ("The answer is ...") the first number counts, or the one after the last "=" of its clause
("5 + 3 = 8 apples"); words for numbers only where there are no digits. Without a statement the last number of
the text counts, which is lm-evaluation-harness's flexible rule for GSM8K, enumerations aside ("3. Then she ...").
"""

from __future__ import annotations

import re
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache

from cca.errors import CcaError
from cca.problems.judges.judge import UNREADABLE, Judgement, judgement
from cca.problems.judges.number_words import read_number_words
from cca.problems.judges.quantities import Found, Quantity, find_quantities, last_quantity
from cca.problems.judges.reading import Reader
from cca.problems.judges.statements import Statement
from cca.problems.judges.text import TextJudge
from cca.problems.judges.typography import plain, unlatex

_MARKUP = re.compile(r"[\s*_:$`#>=\[\]()\"'~≈{},]*\Z")
_FILLER = re.compile(
    r"(?:[\s*_:$`#>=\[\]()\"'~≈{},]|[a-z][ ]?=|about|approximately|around|roughly|exactly|only|just|simply|therefore"
    r"|thus|so|equal to|the|is|a total of|an|a)*+\Z",  # possessive: "a=a=a=" has many readings
    re.IGNORECASE,
)
_CLAUSE = re.compile(r"[,;][ ]|[ ]\(|\n|[.!?][ ]")
_JOINED = re.compile(r"[)\]*_$%]{0,3}[ ]?(?:[*×÷+]|x(?=[ ])|-(?=[ ]))[ ]?[$(]?\d")
_RANGED = re.compile(r"[)\]*_$%]{0,3}(?: ?[-\u2013\u2014] ?| to )(?=[$€£]?\d)")
_PLACES = re.compile(r"\s?(?:decimal|d\.?p|significant|s\.?f)", re.IGNORECASE)
_SPACED = re.compile(r"(?<![\d.,])\d{1,3}(?: \d{3})+(?![\d,]| ?/)")
_ENUMERATION = re.compile(r"[ \t]{0,8}[*_#]{0,4}[ ]?(?:Step )?\d{1,2}[.):][*_]{0,2}[ ]+(?=[^\W\d])")
_DENIAL = re.compile(r"\s*(?:not\b|n't)", re.IGNORECASE)
_LAST_DIGIT = re.compile(r".*\d", re.DOTALL)
_WINDOW = 160
_FARTHEST = 5000
"""How far from the end the last number of a text is looked for, in characters."""


class NumberJudge(Reader[Quantity]):
    """``tolerance``: the largest absolute difference still right (0: exact)."""

    name = "number"

    def __init__(self, *, tolerance: float | str = 0, thinking: bool = False, final: bool = True) -> None:
        super().__init__(thinking=thinking, final=final)
        try:
            self.tolerance = Fraction(str(tolerance))
        except (ValueError, ZeroDivisionError) as error:
            raise CcaError(f"judge 'number': expected a number as tolerance, got {tolerance!r}") from error
        if self.tolerance < 0:
            raise CcaError(f"judge 'number': expected a tolerance of at least 0, got {tolerance!r}")

    def __call__(self, text: str, gold: str) -> Judgement:
        wanted = _gold(gold)
        answer = self.read(text)
        if answer is None:
            return UNREADABLE
        return judgement(str(answer), answer.matches(wanted, self.tolerance))

    def check_gold(self, gold: str) -> None:
        _gold(gold)

    def prepare(self, text: str) -> str:
        return plain(text)

    def read_statement(self, statement: Statement) -> Quantity | None:
        text = statement.text
        if _DENIAL.match(text):
            return None
        text = unlatex(text)
        direct = statement.kind == "hashes" or (statement.kind == "label" and not statement.closing)
        return _read_clause(text, direct, statement.leading)

    def read_whole(self, text: str) -> Quantity | None:
        found = _last_number(text)
        if found is None and len(text) < 80:
            value = read_number_words(text)
            return None if value is None else Quantity(value)
        return found


def read_number(text: str) -> Quantity | None:
    """The one quantity in ``text``, unit words around it allowed; None when it has none or several."""
    if len(text) > _FARTHEST:
        return None
    text = unlatex(plain(text)).strip()
    found = list(find_quantities(_SPACED.sub(_ungroup, text)))
    if len(found) == 1:
        return _with_spaced_sign(text, found[0])
    value = None if found or len(text) > 80 else read_number_words(text)
    return None if value is None else Quantity(value)


def is_number(text: str) -> bool:
    """Whether ``text`` is a number and nothing else but sign, currency, percent or a factor ("million")."""
    if len(text) > _FARTHEST:
        return False
    text = unlatex(plain(text)).strip().rstrip(".")
    found = next(find_quantities(text), None)
    return found is not None and not (text[: found.start] + text[found.end :]).strip(" $*`-+")


@lru_cache(maxsize=65536)
def _gold(gold: str) -> Quantity:
    text = gold.rpartition("####")[2]
    quantity = read_number(text)
    if quantity is None:
        raise CcaError(
            f"judge 'number': expected a gold answer with one number, got {gold!r}; try the judge 'text'"
        )
    return quantity


def _read_clause(text: str, direct: bool, leading: bool) -> Quantity | None:
    text = _SPACED.sub(_ungroup, text)
    first = next(find_quantities(text), None)
    if first is None:
        value = read_number_words(text)
        return None if value is None else Quantity(value)
    if direct and not _FILLER.match(text[: first.start].rstrip("-")):
        return None
    clause = _CLAUSE.search(text, first.end)
    rest = text[first.end : clause.start() if clause else len(text)]
    equals = rest.rfind("=")
    if equals >= 0:
        result = next(find_quantities(rest, equals), None)
        if result is not None:
            return None if direct and leading else result.quantity
    if _is_range(text, first):
        return replace(first.quantity, single=False)
    if _JOINED.match(text, first.end):
        return None  # an expression that was not worked out
    return _with_spaced_sign(text, first)


def _is_range(text: str, first: Found) -> bool:
    """Whether "-", a dash or "to" and a larger number follow: "5-10 pens", but not "0.33 to 2 decimal places"."""
    joint = _RANGED.match(text, first.end)
    other = next(find_quantities(text, joint.end()), None) if joint else None
    if joint is None or other is None or _PLACES.match(text, other.end):
        return False
    return abs(other.quantity.value) > first.quantity.value


def _with_spaced_sign(text: str, found: Found) -> Quantity:
    """Read "- 5" as negative where nothing but markup stands before it."""
    before = text[: found.start].rstrip()
    spelt = re.search(r"(?:\bminus|\bnegative)\Z", before, re.IGNORECASE)
    if spelt or (before.endswith("-") and "\n" not in before and _MARKUP.match(before[:-1])):
        return replace(found.quantity, value=-found.quantity.value)
    return found.quantity


def _last_number(text: str) -> Quantity | None:
    """The last number of the text, looked for near its end first."""
    last = _LAST_DIGIT.match(text)
    if last is None:
        return None
    begin = max(0, last.end() - _WINDOW)
    if begin:  # between words
        begin = text.find(" ", begin, last.end() - _WINDOW // 2)
    near = _last_in(text[begin : last.end() + _WINDOW // 4]) if begin >= 0 else None
    return _last_in(text[-_FARTHEST:]) if near is None and begin else near


def _last_in(text: str) -> Quantity | None:
    text = _SPACED.sub(_ungroup_zeros, unlatex(text))

    def enumerates(found: Found) -> bool:
        item = _ENUMERATION.match(text, text.rfind("\n", 0, found.start) + 1)
        return item is not None and found.start < item.end()

    return last_quantity(text, lambda found: not enumerates(found))


def _ungroup(match: re.Match[str]) -> str:
    return match[0].replace(" ", "")


def _ungroup_zeros(match: re.Match[str]) -> str:
    """Join "70 000" in running text; "5 100 dollar bills" are two numbers."""
    return _ungroup(match) if " 0" in match[0] else match[0]


class AutoJudge:
    """`NumberJudge` or `TextJudge`, by the gold answer. A GSM8K solution ("... #### 18") is a number."""

    name = "auto"

    def __init__(self, *, thinking: bool = False, final: bool = True) -> None:
        self.numbers = NumberJudge(thinking=thinking, final=final)
        self.texts = TextJudge(thinking=thinking, final=final)

    def __call__(self, text: str, gold: str) -> Judgement:
        return self._judge(gold)(text, gold)

    def finished(self, text: str) -> bool:
        return self.numbers.finished(text) and self.texts.finished(text)

    def check_gold(self, gold: str) -> None:
        self._judge(gold).check_gold(gold)

    def _judge(self, gold: str) -> NumberJudge | TextJudge:
        return self.numbers if _is_number(gold) else self.texts


@lru_cache(maxsize=65536)
def _is_number(gold: str) -> bool:
    return is_number(gold.rpartition("####")[2])
