"""The number judge: one final number, compared exactly. `quantities.Quantity` says which spellings are equal.

A statement ("The answer is ...") gives its one number, or the one after the last "=" of its clause ("5 + 3 = 8
apples"); words for numbers count only where there are no digits. Whatever else stands next to the number makes the
statement unclear, and the completion unreadable: another number ("5 or 6", "2 hours and 30 minutes"), a relation ("less
than 42"), a letter, root or factorial bound to it ("2x", "5!"). Measures are no such thing ("42 km per 2 hours").

Without a statement the last number of the text counts, which is lm-evaluation-harness's flexible rule for GSM8K,
enumerations aside ("3. Then she ...").
"""

from __future__ import annotations

import re
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache

from cca.errors import CcaError
from cca.problems.judges.judge import Judgement, judgement
from cca.problems.judges.quantities import Found, Quantity, find_quantities, last_quantity, read_number_words
from cca.problems.judges.reading import UNCLEAR, Reader, Unclear
from cca.problems.judges.statements import Statement
from cca.problems.judges.text import TextJudge
from cca.problems.judges.typography import CALCULATION, FUNCTION, plain, unlatex

_MARKUP = re.compile(r"[\s*_:$`#>=\[\]()\"'~≈{},]*\Z")
_FILLER = re.compile(
    r"(?:[\s*_:$`#>=\[\]()\"'~≈{},]|[a-z][ ]?=|about|approximately|around|roughly|exactly|only|just|simply|therefore"
    r"|thus|so|equal to|the|is|a total of|an|a)*+\Z",  # possessive: "a=a=a=" has many readings
    re.IGNORECASE,
)
_CLAUSE = re.compile(
    r"[,;][ ]|[ ]\(|\n|[.!?][ ]|[ ](?:[-\u2014][ ](?=[^\W\d])|(?:because|since|as|which|where|when|if|but|while)\b)"
)
_JOINED = re.compile(r"[)\]*_$%]{0,3}[ ]?(?:[*×÷+]|x(?=[ ])|-(?=[ ]))[ ]?[$(]?\d")
_RESULT = re.compile(r",?[ ](?:or|i\.e\.|that is|which (?:is|equals|makes|gives)|equals|making|giving)[ ]")
_RANGED = re.compile(r"[)\]*_$%]{0,3}(?: ?[-\u2013\u2014] ?| (?:to|through|until) )(?=[$€£]?\d)")
_RELATION = re.compile(
    r"(?:\b(?:(?:less|more|fewer|greater|larger|bigger|smaller|higher|lower|longer|shorter|other) than(?: or equal to)?"
    r"|at (?:least|most)|up to|over|under|below|above|between|exceed(?:s|ing)?|either|neither|not|(?:min|max)imum of"
    r"|no (?:more|less|fewer))|(?<![=-])[<>]|[≤≥≠±→]|\+/?-)[\s$€£=(-]*(?:an?|the)?\s*\Z",
    re.IGNORECASE,
)
_RELATION_AFTER = re.compile(
    r"[ ]?(?:\+(?!\s?\d)|±|(?:or|and) (?:more|less|fewer|greater|larger|smaller|above|below|over|under)\b|to infinity)"
)
_MEASURE = re.compile(
    r"\b(?:per|for|in|out of|of|within|every|each|after|from|on|at|with|among|during|over|using)\b[^\d]*\Z",
    re.IGNORECASE,
)
"""Before another number of a clause, which is then no second answer: "42 km per 2 hours", "42 out of 50"."""
_CENTS = re.compile(r"dollars? and \d{1,2} cents?\b", re.IGNORECASE)
_HEDGE = r"(?:about |approximately |roughly |maybe |perhaps |possibly |even )?"
_ALTERNATIVE = re.compile(rf"\bor[ ]{_HEDGE}[$€£]?\Z", re.IGNORECASE)
_LIST_ITEM = re.compile(rf"(?:(?:and|or)[ ]{_HEDGE})?[-+$€£(]*\d[^=,;\n]*(?:[,;\n]|\Z)")
_UNKNOWN = re.compile(r"[a-z][ ]?=[ ]?-?\Z")
_OTHER_UNKNOWN = re.compile(r"(?:and[ ])?[a-z][ ]?=[ ]?-?\d")
_BOUND = re.compile(r"[xyznijqruvwae](?![a-z])|\([a-z]|[ ]?_[ ]?\d|[ ]?\(?mod\b|(?:hr?s?|ft)\d+[ ]?[a-z]")
"""Right after a number: it is a factor, a base or one part of several."""
_BOUND_FORMULA = re.compile(r"[ ]?(?:[xyznijqruvwe](?![a-z'])|!)")
_UNIT_POWER = re.compile(r"(?<=[A-Za-z])[ ]{0,2}\^[ ]?-?\d|</?[a-z]{1,8}>")
_EXPRESSION = re.compile(rf"[√π∞±^≤≥≠<>{FUNCTION}]")
_DIGIT = re.compile(r"\d")
_RATE = re.compile(r"[ ][^\W\d]+[ ](?:an?|per|each|every)\b")
_PRICE_GROUPS = re.compile(r"(?<=[$€£])\d{1,3}(?:, \d{3})+(?!\d)")
_PLACES = re.compile(r"\s?(?:decimal|d\.?p|significant|s\.?f)", re.IGNORECASE)
_SPACED = re.compile(r"(?<![\d.,])\d{1,3}(?: \d{3})+(?![\d,]| ?/)")
_ENUMERATION = re.compile(r"[ \t]{0,8}[*_#]{0,4}[ ]?(?:Step )?\d{1,2}[.):][*_]{0,2}[ ]+(?=[^\W\d])")
_DENIED = re.compile(r"(?:\bnot|n't|\bcannot)(?: be| equal(?: to)?)?\s{1,3}[$*(`]{0,3}\d[\d.,]*", re.IGNORECASE)
_LAST_DIGIT = re.compile(r".*\d", re.DOTALL)
_WINDOW = 160
_FARTHEST = 5000
"""Distance from the end, in characters, up to which the last number of a text is looked for."""


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

    def read_gold(self, gold: str) -> Quantity:
        return _gold(gold)

    def compare(self, answer: Quantity, wanted: Quantity) -> Judgement:
        return judgement(str(answer), answer.matches(wanted, self.tolerance))

    def prepare(self, text: str) -> str:
        return plain(text)

    def read_statement(self, statement: Statement) -> Quantity | Unclear | None:
        if statement.denies:
            return None
        answer = _Clause(unlatex(statement.text), statement).read()
        heading = statement.leading and not statement.alone  # "Answer:" may head the whole worked solution
        return None if heading and (isinstance(answer, Unclear) or (answer and not answer.single)) else answer

    def read_whole(self, text: str, cut_off: bool = False) -> Quantity | None:
        if cut_off:
            return None
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
    """True when ``text`` is a number and nothing else but sign, currency, percent or a factor ("million")."""
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
        raise CcaError(f"judge 'number': expected a gold answer with one number, got {gold!r}; try the judge 'text'")
    return quantity


class _Clause:
    """The clause of a statement that holds its first number."""

    def __init__(self, text: str, statement: Statement) -> None:
        text = CALCULATION.sub("", text)
        text = _PRICE_GROUPS.sub(lambda match: match[0].replace(", ", ","), text)
        self.text = _SPACED.sub(_ungroup, text)
        self.direct = statement.kind == "hashes" or (statement.kind == "label" and not statement.closing)
        self.leading = statement.leading
        self.formula = statement.kind in ("box", "tag")

    def read(self) -> Quantity | Unclear | None:
        first = next(find_quantities(self.text), None)
        if first is None:
            value = read_number_words(self.text)
            if value is not None:
                return Quantity(value)
            return UNCLEAR if _DIGIT.search(self.text) or _EXPRESSION.search(self.text) else None
        if self.direct and not _FILLER.match(self.text[: first.start].rstrip(" -")):
            return UNCLEAR if _RELATION.search(self.text[: first.start]) else None
        end = self._end(first)
        equals = self.text.rfind("=", first.end, end)
        result = next(find_quantities(self.text, equals), None) if equals >= 0 else None
        if result is not None:
            if self.direct and self.leading:
                return None
            first, end = result, self._end(result)
        if _is_range(self.text, first) or self._is_split(first):
            return replace(first.quantity, single=False)
        if _JOINED.match(self.text, first.end):
            return self._worked_out(first)
        return UNCLEAR if self._is_unclear(first, end) else _with_spaced_sign(self.text, first)

    def _end(self, found: Found) -> int:
        clause = _CLAUSE.search(self.text, found.end)
        return clause.start() if clause else len(self.text)

    def _is_split(self, first: Found) -> bool:
        """True for two numbers side by side: "4 2"."""
        return FUNCTION not in self.text and re.match(r"[ ]\d", self.text[first.end :]) is not None

    def _worked_out(self, first: Found) -> Quantity:
        """The value of an expression ("9 x 2, or 18"); one that was not worked out matches nothing."""
        said = _RESULT.search(self.text, first.end)
        results = list(find_quantities(self.text, said.end())) if said else []
        return results[0].quantity if len(results) == 1 else replace(first.quantity, single=False)

    def _is_unclear(self, found: Found, end: int) -> bool:
        before = _UNIT_POWER.sub("", self.text[: found.start].rpartition("=")[2])
        after = self.text[found.end : end]
        bare = _UNIT_POWER.sub("", after)
        if _RELATION.search(before) or FUNCTION in before or _RELATION_AFTER.match(after):
            return True
        if _BOUND.match(self.text, found.end) or _EXPRESSION.search(bare):
            return True
        if (self.formula and _BOUND_FORMULA.match(after)) or re.match(r"[ ]?![$)*\]]", after):
            return True
        return self._has_another(found, after, end)

    def _has_another(self, found: Found, after: str, end: int) -> bool:
        """True when the statement goes on with a second number that could as well be its answer."""
        if not _CENTS.search(after):
            for other in find_quantities(after):
                between = after[: other.start]
                same = _ALTERNATIVE.search(between) and _is_rounded(found.quantity, other.quantity)
                if not (same or _MEASURE.search(between) or _PLACES.match(after, other.end)):
                    return True
        following = self.text[end:].lstrip(",; ") if self.text[end : end + 1] in (",", ";") else ""
        if _UNKNOWN.search(self.text[: found.start]) and _OTHER_UNKNOWN.match(following):
            return True
        other = next(find_quantities(following), None) if _LIST_ITEM.match(following) else None
        if other is None or _RATE.match(following, other.end):  # "$18 every day, 7 days a week"
            return False
        return not _is_rounded(found.quantity, other.quantity)


def _is_rounded(one: Quantity, other: Quantity) -> bool:
    """True when ``other`` is ``one`` rounded to some decimal place: "1/3 or 0.33"."""
    return one.matches(other) or any(round(one.value, places) == other.value for places in range(7))


def _is_range(text: str, first: Found) -> bool:
    """True when "-", a dash or "to" and a larger number follow: "5-10 pens", but not "0.33 to 2 decimal places"."""
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
    text = _DENIED.sub("", _SPACED.sub(_ungroup_zeros, unlatex(text)))

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

    def __call__(self, text: str, gold: str, *, cut_off: bool = False) -> Judgement:
        return self._judge(gold)(text, gold, cut_off=cut_off)

    def finished(self, text: str) -> bool:
        return self.numbers.finished(text) and self.texts.finished(text)

    def check_gold(self, gold: str) -> None:
        self._judge(gold).check_gold(gold)

    def _judge(self, gold: str) -> NumberJudge | TextJudge:
        return self.numbers if _is_number(gold) else self.texts


@lru_cache(maxsize=65536)
def _is_number(gold: str) -> bool:
    return is_number(gold.rpartition("####")[2])
