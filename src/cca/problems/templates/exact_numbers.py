"""The numbers of template expressions: exact, small, and printed as a person would write them.

A whole number is an ``int``, any other number a ``fractions.Fraction``: ``0.1 + 0.2`` is 0.3 and ``is_int`` never
meets rounding noise. `Worded` is a number that the question words ("half", "twice", "a six-sided die"): text
where it is read, a number where it is reckoned with.
"""

from __future__ import annotations

import math
import reprlib
from fractions import Fraction
from typing import Any

from cca.errors import CcaError

Number = int | Fraction

LARGEST = 10**18
"""No number, numerator or denominator of an expression may be larger than this."""

LONGEST = 10_000
"""No text or list that an expression makes may be longer than this."""


class ExpressionError(CcaError):
    """An expression cannot be parsed, is not allowed, or fails for the given values. The message is one line."""


class Worded:
    """A number with the words it is read by: ``Worded("half", 1/2)``. Arithmetic sees the number alone."""

    __slots__ = ("text", "value")

    def __init__(self, text: str, value: Number) -> None:
        self.text = text
        self.value = value

    def __repr__(self) -> str:
        return f"Worded({self.text!r}, {self.value})"

    def __eq__(self, other: object) -> bool:
        return (self.text if isinstance(other, str) else self.value) == other

    def __hash__(self) -> int:
        return hash(self.value)

    def __bool__(self) -> bool:
        return bool(self.value)

    def __lt__(self, other: Any) -> bool:
        return self.value < other

    def __le__(self, other: Any) -> bool:
        return self.value <= other

    def __gt__(self, other: Any) -> bool:
        return self.value > other

    def __ge__(self, other: Any) -> bool:
        return self.value >= other

    def __add__(self, other: Any) -> Any:
        return self.value + other

    def __radd__(self, other: Any) -> Any:
        return other + self.value

    def __sub__(self, other: Any) -> Any:
        return self.value - other

    def __rsub__(self, other: Any) -> Any:
        return other - self.value

    def __mul__(self, other: Any) -> Any:
        return self.value * other

    def __rmul__(self, other: Any) -> Any:
        return other * self.value

    def __floordiv__(self, other: Any) -> Any:
        return self.value // other

    def __rfloordiv__(self, other: Any) -> Any:
        return other // self.value

    def __mod__(self, other: Any) -> Any:
        return self.value % other

    def __rmod__(self, other: Any) -> Any:
        return other % self.value

    def __neg__(self) -> Any:
        return -self.value

    def __abs__(self) -> Any:
        return abs(self.value)


def exact(value: Any) -> Any:
    """The canonical form of a result: fractions that are whole become ints, a number that is too large is refused."""
    kind = type(value)
    if kind is int:
        if -LARGEST <= value <= LARGEST:
            return value
        raise ExpressionError(
            f"expected numbers up to 1e{len(str(LARGEST)) - 1}, got one of {len(str(value))} digits"
        )
    if kind is Fraction:
        if value.denominator == 1:
            return exact(value.numerator)
        if value.denominator > LARGEST or abs(value.numerator) > LARGEST:
            raise ExpressionError("expected fractions of moderate size, got one with more than 18 digits")
        return value
    if kind is float:
        if not math.isfinite(value):
            raise ExpressionError(f"expected a finite number, got {value}")
        return exact(Fraction(repr(value)))
    return value


def number(value: Any, what: str) -> Number:
    """The number in ``value``: an int, a Fraction, a Worded. Raises ExpressionError naming ``what`` for others."""
    kind = type(value)
    if kind is int or kind is Fraction:
        return value
    if kind is Worded:
        return value.value
    if kind is bool:
        return int(value)
    raise ExpressionError(f"expected a number for {what}, got {shown(value)}")


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
    if type(value) is int:
        return str(value)
    numerator, denominator = value.numerator, value.denominator
    if denominator == 1:
        return str(numerator)
    if 1_000_000 % denominator:
        return f"{numerator}/{denominator}" if denominator <= 10_000 else rounded(value, 2)
    whole, rest = divmod(abs(numerator) * (1_000_000 // denominator), 1_000_000)
    return f"{'-' if numerator < 0 else ''}{whole}.{rest:06d}".rstrip("0")


def rounded(value: Number, digits: int) -> str:
    """``value`` with exactly ``digits`` decimals, halves away from zero."""
    scaled = round_half_away(value, digits) * 10**digits
    sign, units = "-" if scaled < 0 else "", abs(int(scaled))
    if digits <= 0:
        return f"{sign}{units}"
    return f"{sign}{units // 10**digits}.{units % 10**digits:0{digits}d}"


def round_half_away(value: Number, digits: int = 0) -> Number:
    """Round as a person does, halves away from zero (Python's round goes to the even neighbour)."""
    scale = 10**digits if digits >= 0 else Fraction(1, 10**-digits)
    scaled = abs(Fraction(value)) * scale
    units = (2 * scaled.numerator + scaled.denominator) // (2 * scaled.denominator)
    result = Fraction(-units if value < 0 else units) / scale
    return result.numerator if result.denominator == 1 else result


def shown(value: Any) -> str:
    """A short form of any value for messages."""
    if isinstance(value, Fraction):
        return written(value)
    if isinstance(value, Worded):
        return repr(value.text)
    text = reprlib.repr(value)  # of a list in lists only what is shown
    return text if len(text) <= 40 else f"{text[:37]}..."
