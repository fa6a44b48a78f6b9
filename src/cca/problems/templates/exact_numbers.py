"""The numbers of template expressions: exact, small, and written as a person writes them.

A whole number is an ``int``, any other number a ``fractions.Fraction``: ``0.1 + 0.2`` is 0.3 and ``is_int`` never meets
rounding noise. `Worded` is a number with its words ("half", "twice", "six-sided"): text in a sentence, a number in
arithmetic.
"""

from __future__ import annotations

import math
import reprlib
from decimal import Decimal
from fractions import Fraction
from typing import Any

from cca.errors import CcaError

Number = int | Fraction

LARGEST = 10**18
"""Largest number, numerator or denominator in an expression."""

LONGEST = 10_000
"""Most characters of a text and most items of a list that an expression makes."""


class ExpressionError(CcaError):
    """An expression cannot be parsed, is not allowed, or fails for the given values. The message is one line."""


class Worded(Fraction):
    """A number with the words it is read by: ``Worded("half", 1/2)``. It equals its number and its words."""

    __slots__ = ("text",)
    text: str

    def __new__(cls, text: str, value: Number) -> Worded:
        made = super().__new__(cls, value)
        made.text = text
        return made

    @property
    def value(self) -> Number:
        return self.numerator if self.denominator == 1 else Fraction(self.numerator, self.denominator)

    def __repr__(self) -> str:
        return f"Worded({self.text!r}, {self.value})"

    def __eq__(self, other: object) -> bool:
        return self.text == other if isinstance(other, str) else super().__eq__(other)

    __hash__ = Fraction.__hash__


class Steps(list[Any]):
    """The list that ``np.arange`` gives. It takes part in no arithmetic: numpy's would differ from a list's."""

    __slots__ = ()


def exact(value: Any) -> Any:
    """The canonical form of a result: whole fractions become ints, other values stay. Raises ExpressionError when
    a number is too large."""
    kind = type(value)
    if kind is float:
        if not math.isfinite(value):
            raise ExpressionError(f"expected a finite number, got {value}")
        return exact(Fraction(repr(value)))
    if kind is Fraction and value.denominator == 1:
        value = value.numerator
    if kind in (int, Fraction) and max(abs(value.numerator), value.denominator) > LARGEST:
        raise ExpressionError("expected numbers up to 1e18 and fractions of moderate size, got one with more digits")
    return value


def number(value: Any, what: str) -> Number:
    """The number in ``value``. Raises ExpressionError naming ``what`` when there is none."""
    kind = type(value)
    if kind is int or kind is Fraction:
        return value
    if kind is Worded:
        return value.value
    if kind is bool:
        return int(value)
    raise ExpressionError(f"expected a number for {what}, got {shown(value)}")


def bounded(value: Any) -> Any:
    """A text, list or tuple with all that is in it. Raises ExpressionError above LONGEST items and characters."""
    if bulk(value) > LONGEST:
        raise ExpressionError(f"expected at most {LONGEST} items or characters, got more")
    return value


def bulk(value: Any) -> int:
    """Items and characters of a text, list or tuple, including those of the lists in it."""
    if isinstance(value, str):
        return len(value)
    return len(value) + sum(bulk(item) for item in value if isinstance(item, list | tuple))


def parsed_number(text: str) -> Number | None:
    """The number that ``text`` spells in digits ("12", "2.50", "3/4", "1,200"), or None."""
    text = text.strip().replace(",", "")
    if not text or len(text) > 40 or "e" in text.lower() or "_" in text:
        return None
    try:
        value = Fraction(text)
    except (ValueError, ZeroDivisionError):
        return None
    return value.numerator if value.denominator == 1 else value


def written(value: Number) -> str:
    """Digits as a person writes them: 6, 2.5, -3, 1/3. Decimals up to six places, else a fraction."""
    numerator, denominator = value.numerator, value.denominator
    if 1_000_000 % denominator == 0:
        return f"{Decimal(numerator) / denominator:f}"
    return f"{numerator}/{denominator}" if denominator <= 10_000 else rounded(value, 2)


def rounded(value: Number, digits: int) -> str:
    """``value`` with exactly ``digits`` decimals, halves away from zero."""
    value = round_half_away(value, digits)
    return f"{Decimal(value.numerator) / value.denominator:.{max(digits, 0)}f}"


def round_half_away(value: Number, digits: int = 0) -> Number:
    """Round as a person does, halves away from zero (Python's round goes to the even neighbour)."""
    scale = Fraction(10) ** digits
    units = math.floor(abs(value) * scale + Fraction(1, 2))
    result = Fraction(-units if value < 0 else units) / scale
    return result.numerator if result.denominator == 1 else result


def shown(value: Any) -> str:
    """A short form of any value for messages."""
    if isinstance(value, Fraction):
        return repr(value.text) if isinstance(value, Worded) else written(value)
    text = reprlib.repr(value)  # formats only the part of a nested list that is shown
    return text if len(text) <= 40 else f"{text[:37]}..."


def brief(text: str) -> str:
    """The start of an expression for messages."""
    text = " ".join(text.split())
    return text if len(text) <= 80 else f"{text[:77]}..."
