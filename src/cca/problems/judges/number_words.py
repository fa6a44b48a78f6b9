"""Numbers spelt out in English: "forty-two", "one hundred and five", "minus three", "two and a half"."""

from __future__ import annotations

import re
from fractions import Fraction

_UNITS = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]  # fmt: skip
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_VALUES = {word: value for value, word in enumerate(_UNITS)} | {
    word: 10 * value for value, word in enumerate(_TENS, start=2)
}
_PARTS = {
    "half": 2, "halves": 2, "third": 3, "thirds": 3, "quarter": 4, "quarters": 4, "fourth": 4, "fourths": 4,
    "fifth": 5, "fifths": 5, "sixth": 6, "sixths": 6, "eighth": 8, "eighths": 8, "tenth": 10, "tenths": 10,
}  # fmt: skip
_WORD = re.compile(r"[a-z]+")
_ANY = "|".join(sorted([*_VALUES, *SCALES, "hundred", "dozen", *_PARTS], key=len, reverse=True))
_RUN = re.compile(
    r"(?<![\w])(?:(?:minus|negative)[ ])?"
    r"(?:an?[ ](?=(?:hundred|dozen|half|thousand|million|billion|quarter|third)\b))?"
    rf"(?:{_ANY})(?:(?:[ ]|-|,[ ]|[ ]and[ ](?:an?[ ])?|-and-|[ ]a[ ])(?:{_ANY}))*(?![\w])",
    re.IGNORECASE,
)
_PRONOUN = re.compile(
    r"[ ]{1,3}(?:of|that|who|which|another|way|by|thing|possible|could|can|has)\b", re.IGNORECASE
)


def read_number_words(text: str) -> Fraction | None:
    """The first number spelt out in ``text``, or None. "One of ..." and the like is no number."""
    for run in _RUN.finditer(text):
        if run[0].lower() == "one" and _PRONOUN.match(text, run.end()):
            continue
        value = _value(run[0].lower())
        if value is not None:
            return value
    return None


def _value(run: str) -> Fraction | None:
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
        if word in SCALES:
            if SCALES[word] >= smallest:
                return None
            smallest = SCALES[word]
            total, group = total + (group or 1) * smallest, 0
        elif word == "hundred":
            group = (group or 1) * 100
        elif word == "dozen":
            group = (group or 1) * 12
        elif word in _VALUES:
            value, room = _VALUES[word], group % 100
            if room and not (room >= 20 and room % 10 == 0 and 0 < value < 10):
                return None
            group += value
        else:
            return None
    return total + group
