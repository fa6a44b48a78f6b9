"""The numbers of template expressions: exact, small, and written as a person writes them.

A whole number is an ``int``, any other number a ``fractions.Fraction``: ``0.1 + 0.2`` is 0.3 and ``is_int`` never meets
rounding noise. `Worded` is a number with its words ("half", "twice", "six-sided"): text in a sentence, a number in
arithmetic.
"""

from __future__ import annotations

import math
import reprlib
from fractions import Fraction
from typing import Any

from cca.errors import CcaError

Number = int | Fraction

LARGEST = 10**18
"""Largest number, numerator or denominator in an expression."""

LONGEST = 10_000
"""Most characters of a text and most items of a list that an expression makes."""


_REPEATED = frozenset((str, list, tuple))


class ExpressionError(CcaError):
    """An expression cannot be parsed, is not allowed, or fails for the given values. The message is one line."""


class Worded:
    """A number with the words it is read by: ``Worded("half", 1/2)``. It equals its number and its words."""

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


class Steps(list[Any]):
    """The list that ``np.arange`` gives. It takes part in no arithmetic: numpy's would differ from a list's."""

    __slots__ = ()


def exact(value: Any) -> Any:
    """The canonical form of a result: whole fractions become ints, other values stay. Raises ExpressionError when
    a number is too large."""
    kind = type(value)
    if kind is int:
        if -LARGEST <= value <= LARGEST:
            return value
        raise ExpressionError(f"expected numbers up to 1e18, got one of {_digits(value)} digits")
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


def _digits(value: int) -> int:
    return int(value.bit_length() * math.log10(2)) + 1  # str() refuses more than 4,300 digits


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


def add(one: Any, other: Any) -> Any:
    """``one + other``: numbers, two texts or two lists."""
    if type(one) is int and type(other) is int:
        return one + other
    if type(one) is type(other) and type(one) in _REPEATED:
        return bounded(one + other)
    return exact(number(one, "a sum") + number(other, "a sum"))


def subtract(one: Any, other: Any) -> Number:
    if type(one) is int and type(other) is int:
        return one - other
    return exact(number(one, "a difference") - number(other, "a difference"))


def multiply(one: Any, other: Any) -> Any:
    """``one * other``; a whole number repeats a text or a list."""
    if type(one) is int and type(other) is int and -LARGEST < (product := one * other) < LARGEST:
        return product
    if type(one) in _REPEATED or type(other) in _REPEATED:
        items, count = (one, other) if type(one) in _REPEATED else (other, one)
        times = number(count, "a repetition")
        if not isinstance(times, int) or max(bulk(items), 1) * times > LONGEST:
            raise ExpressionError(f"expected at most {LONGEST} items or characters, got a repetition of {shown(count)}")
        return items * times
    return exact(number(one, "a product") * number(other, "a product"))


def divide(one: Any, other: Any) -> Number:
    if type(one) is int and type(other) is int:
        return one // other if one % other == 0 else Fraction(one, other)
    return exact(Fraction(number(one, "a division")) / number(other, "a division"))


def floor_divide(one: Any, other: Any) -> Number:
    return exact(number(one, "a division") // number(other, "a division"))


def remainder(one: Any, other: Any) -> Number:
    return exact(number(one, "a remainder") % number(other, "a remainder"))


def power(base: Any, exponent: Any) -> Number:
    base, exponent = number(base, "a power"), number(exponent, "an exponent")
    if not isinstance(exponent, int):
        raise ExpressionError(f"expected a whole exponent, got {shown(exponent)}")
    digits = max(abs(base.numerator).bit_length(), base.denominator.bit_length()) - 1
    if abs(exponent) > 64 or digits * abs(exponent) > LARGEST.bit_length():
        raise ExpressionError(f"expected powers up to 1e18, got {shown(base)} ** {shown(exponent)}")
    return exact(Fraction(base) ** exponent)


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
    text = reprlib.repr(value)  # formats only the part of a nested list that is shown
    return text if len(text) <= 40 else f"{text[:37]}..."


def brief(text: str) -> str:
    """The start of an expression for messages."""
    text = " ".join(text.split())
    return text if len(text) <= 80 else f"{text[:77]}..."
