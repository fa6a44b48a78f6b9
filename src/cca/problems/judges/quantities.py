"""A Quantity: one number as written, read exactly (`fractions.Fraction`, never float).

Two spellings of one number are equal: 42 and 42.0, 1/2 and 0.5, 1,200 and 1200, 1.5e3 and 1500. Where a
spelling leaves open what a bare number would mean, either meaning matches it, but only against a bare number:

* ``50%`` matches 50 and 0.5 (gold answers of "how many percent" drop the sign); 0.5% does not match 50%.
* ``2.5 million`` matches 2500000 and 2.5 (as an answer to "how many million"); ``2 dozen`` matches 24 and 2.

Numbers spelt out in English are read too: "forty-two", "minus three", "two and a half".
Numbers of more than `LONGEST` digits, or with exponents beyond `LARGEST_EXPONENT`, are not read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction

LONGEST = 100
LARGEST_EXPONENT = 99

_SCALES = {
    "dozen": 12, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12,
    "k": 10**3, "m": 10**6, "mm": 10**6, "mn": 10**6, "b": 10**9, "bn": 10**9, "lakh": 10**5, "crore": 10**7,
}  # fmt: skip
_NUMBER = re.compile(
    r"""
    (?: (?P<comma>(?<![\d,(\[])(?:\d{1,3}(?:\.\d{3})+|\d+),\d{1,2}(?![\d,]|\.\d))      # 1.234,50 and 3,5
      | (?P<integer>\d{1,3}(?:,\d{3})+(?!\d)                                           # 1,234,567
                   |\d{1,2}(?:,\d{2})+,\d{3}(?!\d)                                    # 12,34,567
                   |\d{1,3}(?:\.\d{3}){2,}(?![\d.])                                   # 1.234.567
                   |\d+) (?P<decimal>\.\d+)?
      | (?P<point>(?<![\d.])\.\d+) )
    (?: [ ]?[x×*][ ]?10[ ]?(?:\^|\*\*)[ ]?[{(]?(?P<power>[-+]?\d+)[)}]?                # 1.5 x 10^3
      | [eE](?P<exponent>[-+]?\d+)(?!\w)
      | (?<=10)\^[{(]?(?P<ten>-?\d+)[)}]?
      | [ ]?/[ ]?(?P<below>-?\d+(?:\.\d+)?)(?![\d/]|\.\d)
      | (?:[ ]{1,2}|-|[ ]and[ ])(?P<mixed_above>\d+)[ ]?/[ ]?(?P<mixed_below>\d+)(?![\d/])   # 1 1/2
    )?
    """,
    re.VERBOSE,
)
_SUFFIX = re.compile(
    r"[*_$)\]]{0,4}(?:(?P<percent>[ ]?(?:%|percent\b|per[ ]cent\b|pct\b|percentage[ ]points?\b))"
    r"|[ -]?(?P<word>hundred|thousand|million|billion|trillion|dozen|lakh|crore)s?\b"
    r"|(?P<letter>[kK]|[mM][mMnN]?|[bB][nN]?)(?!\w))?",
    re.IGNORECASE,
)
_CURRENCY = "$€£¥₹₽₩₱₺฿¢"
_BEFORE = re.compile(
    rf"(?P<sign>(?<![\w)\]}}%])[-+])?[ ]?(?:[A-Z]{{0,3}}[{_CURRENCY}]|\bRs\.?|\bUSD|\bEUR|\bGBP)?[ ]?"
    r"(?P<inner>[-+])?\Z"
)
_CURRENCY_WORD = re.compile(r"(?<![A-Za-z])(?:Rs|USD|EUR|GBP|CAD|AUD)\Z")
_MAY_PRECEDE_SIGN = frozenset(" \t\n([{=:*~`\"'≈>,_" + _CURRENCY)


@dataclass(frozen=True, slots=True)
class Quantity:
    value: Fraction
    percent: bool = False
    scale: int = 1
    """Factor of the word after the number: 10**6 for "million"."""
    single: bool = True
    """False for the low end of a range ("5-10"), which is no answer: it matches nothing."""

    def matches(self, other: Quantity, tolerance: Fraction = Fraction(0)) -> bool:
        """True when both can mean the same number, up to ``tolerance`` (absolute)."""
        if not (self.single and other.single):
            return False
        if (self.percent and other.percent) or not (self.ambiguous or other.ambiguous):
            return self.value == other.value or abs(self.value - other.value) <= tolerance
        if self.scale != 1 and other.scale != 1:
            return abs(self.value * self.scale - other.value * other.scale) <= tolerance
        return any(abs(one - two) <= tolerance for one in self._meanings() for two in other._meanings())

    @property
    def ambiguous(self) -> bool:
        return self.percent or self.scale != 1

    def _meanings(self) -> tuple[Fraction, ...]:
        if self.percent:
            return (self.value, self.value / 100)
        return (self.value, self.value * self.scale) if self.scale != 1 else (self.value,)

    def __str__(self) -> str:
        """``42``, ``0.5``, ``1/3``, ``50%``, ``2500000``, ``5-...``."""
        text = _decimal(self.value * self.scale) + ("" if self.single else "-...")
        return f"{text}%" if self.percent else text


@dataclass(frozen=True, slots=True)
class Found:
    """A quantity and where in the text it stands, sign and currency included."""

    quantity: Quantity
    start: int
    end: int


def find_quantities(text: str, start: int = 0) -> Iterator[Found]:
    """Every number of ``text`` that stands for itself.

    Skipped: digits inside a word (x2, H2O), clock times and ratios (3:30), versions, exponents of units (cm^2), and
    numbers that are a factor of a root, a power or pi.
    """
    for match in _NUMBER.finditer(text, start):
        found = _found(text, match)
        if found is not None:
            yield found


def last_quantity(text: str, accept: Callable[[Found], bool]) -> Quantity | None:
    """The last number of ``text`` that ``accept`` takes, or else the last one: searched from the end."""
    last: Quantity | None = None
    for match in reversed(list(_NUMBER.finditer(text))):
        found = _found(text, match)
        if found is not None:
            if accept(found):
                return found.quantity
            last = last or found.quantity
    return last


def _found(text: str, match: re.Match[str]) -> Found | None:
    begin, end = match.span()
    if end - begin > LONGEST or _is_part_of_more(text, begin, end):
        return None
    value = _value(match)
    if value is None:
        return None
    start, negative = _sign(text, begin)
    percent, scale = False, 1
    suffix = _SUFFIX.match(text, end)
    if suffix is not None and suffix[0]:
        percent = suffix["percent"] is not None
        letter = suffix["letter"]
        if suffix["word"] or (letter and (letter in "kK" or not {*text[start:begin]}.isdisjoint(_CURRENCY))):
            scale = _SCALES[(suffix["word"] or letter).lower()]
        if percent or scale != 1:
            end = suffix.end()
    return Found(Quantity(-value if negative else value, percent, scale), start, end)


def _is_part_of_more(text: str, begin: int, end: int) -> bool:
    before, after = text[max(0, begin - 2) : begin], text[end : end + 2]
    if before:
        last, digit_before = before[-1], before[0].isdigit() and len(before) == 2
        if before.strip()[-1:] in ("^", "√") or before == "^{" or (digit_before and last in ":./"):
            return True
        if last.isascii() and last.isalpha() and not _CURRENCY_WORD.search(text, max(0, begin - 4), begin):
            return True
    if not after:
        return False
    return after.strip()[:1] in ("^", "√", "π") or (after[0] in ":/." and after[1:].isdigit())


def _value(match: re.Match[str]) -> Fraction | None:
    if match["comma"]:
        whole, _, part = match["comma"].partition(",")
        value = Fraction(int(whole.replace(".", "") + part), 10 ** len(part))
    else:
        digits = (match["integer"] or "0").replace(",", "").replace(".", "")
        part = match["decimal"] or match["point"]
        value = Fraction(int(digits + part[1:]), 10 ** (len(part) - 1)) if part else Fraction(int(digits))
    group = match.lastgroup
    if group in ("power", "exponent"):
        exponent = int(match[group])
        return value * Fraction(10) ** exponent if abs(exponent) <= LARGEST_EXPONENT else None
    if group == "ten":
        exponent = int(match["ten"])
        return Fraction(10) ** exponent if value == 10 and abs(exponent) <= LARGEST_EXPONENT else None
    if group == "below":
        below = Fraction(match["below"])
        return value / below if below else None
    if group == "mixed_below":
        above, below = int(match["mixed_above"]), int(match["mixed_below"])
        return value + Fraction(above, below) if above < below and value.denominator == 1 else None
    return value


def _sign(text: str, begin: int) -> tuple[int, bool]:
    """(where the sign and currency before the digit at ``begin`` start, whether the number is negative)."""
    before = _BEFORE.search(text, max(0, begin - 8), begin)
    if before is None or not before[0].strip():
        return begin, False
    if before["sign"]:
        if before[0][1:2] == " ":  # "16 - 3", or the bullet of a list: no sign
            return begin, False
        return before.start(), before["sign"] == "-"
    where = before.start("inner") if before["inner"] == "-" else 0
    if where and text[where - 1] not in _MAY_PRECEDE_SIGN:
        return begin, False
    return before.start(), where > 0


def _decimal(value: Fraction) -> str:
    """``value`` as an integer or a finite decimal where there is one, else as a fraction."""
    if value.denominator == 1:
        return str(value.numerator)
    places = value.denominator.bit_length()  # as many as it can need
    if 10**places % value.denominator:
        return f"{value.numerator}/{value.denominator}"
    digits = str(abs(value.numerator) * 10**places // value.denominator).rjust(places + 1, "0")
    return f"{'-' if value < 0 else ''}{digits[:-places]}.{digits[-places:].rstrip('0')}"


UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_WORD_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_WORD_VALUES = dict(zip([*UNITS, *TENS], [*range(20), *range(20, 100, 10)], strict=True))
_PARTS = {
    "half": 2, "halves": 2, "third": 3, "thirds": 3, "quarter": 4, "quarters": 4, "fourth": 4, "fourths": 4,
    "fifth": 5, "fifths": 5, "sixth": 6, "sixths": 6, "eighth": 8, "eighths": 8, "tenth": 10, "tenths": 10,
}  # fmt: skip
_WORD = re.compile(r"[a-z]+")
_ANY = "|".join(sorted([*_WORD_VALUES, *_WORD_SCALES, "hundred", "dozen", *_PARTS], key=len, reverse=True))
_RUN = re.compile(
    r"(?<![\w])(?:(?:minus|negative)[ ])?"
    r"(?:an?[ ](?=(?:hundred|dozen|half|thousand|million|billion|quarter|third)\b))?"
    rf"(?:{_ANY})(?:(?:[ ]|-|,[ ]|[ ]and[ ](?:an?[ ])?|-and-|[ ]a[ ])(?:{_ANY}))*(?![\w])",
    re.IGNORECASE,
)
_PRONOUN = re.compile(r"[ ]{1,3}(?:of|that|who|which|another|way|by|thing|possible|could|can|has)\b", re.IGNORECASE)


def read_number_words(text: str, whole: bool = False) -> Fraction | None:
    """The first number spelt out in ``text``, or None; ``whole``: the text is nothing else.

    "One of ..." and the like is no number.
    """
    for run in _RUN.finditer(text):
        if (whole and run[0] != text) or (run[0].lower() == "one" and _PRONOUN.match(text, run.end())):
            continue
        value = _word_value(run[0].lower())
        if value is not None:
            return value
    return None


def _word_value(run: str) -> Fraction | None:
    words = _WORD.findall(run)
    negative = words[0] in ("minus", "negative")
    words = [word for word in words[negative:] if word not in ("a", "an")]
    fraction = Fraction(0)
    if words[-1] in _PARTS:  # "three quarters", "two and a half", "two and three quarters"
        split = len(words) - 1 - words[::-1].index("and") if "and" in words else -1
        above = _integer(words[split + 1 : -1]) if words[split + 1 : -1] else 1
        if above is None:
            return None
        fraction, words = Fraction(above, _PARTS[words[-1]]), words[: max(split, 0)]
    value = _integer([word for word in words if word != "and"]) if words else 0
    if value is None or (words and fraction >= 1):
        return None
    return -(value + fraction) if negative else value + fraction


def _integer(words: list[str]) -> int | None:
    """Value of number words by the usual grammar; None for a sequence such as "two three"."""
    total, group, smallest = 0, 0, 10**15
    for word in words:
        if word in _WORD_SCALES:
            if _WORD_SCALES[word] >= smallest:
                return None
            smallest = _WORD_SCALES[word]
            total, group = total + (group or 1) * smallest, 0
        elif word == "hundred":
            group = (group or 1) * 100
        elif word == "dozen":
            group = (group or 1) * 12
        elif word in _WORD_VALUES:
            value, room = _WORD_VALUES[word], group % 100
            if room and not (room >= 20 and room % 10 == 0 and 0 < value < 10):
                return None
            group += value
        else:
            return None
    return total + group
