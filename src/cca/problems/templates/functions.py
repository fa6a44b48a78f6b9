"""The functions that template expressions may call, each bounded in time and size and exact on numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from cca.problems.templates.exact_numbers import (
    LARGEST,
    LONGEST,
    ExpressionError,
    Number,
    Steps,
    Worded,
    divide,
    exact,
    number,
    parsed_number,
    round_half_away,
    shown,
    written,
)
from cca.problems.templates.word_lists import number_words

WIDEST = 1_000_000
"""Most numbers of a range."""

Function = tuple[Callable[..., Any], int]
"""A function and the price of a call, where a node of an expression costs 1."""


def is_int(value: Any) -> bool:
    return type(exact(number(value, "is_int"))) is int


def divides(dividend: Any, divisor: Any) -> bool:
    """True when ``divisor`` goes into ``dividend`` a whole number of times (the order of the published templates)."""
    divisor = number(divisor, "divides")
    return divisor != 0 and number(dividend, "divides") % divisor == 0


def whole(value: Any) -> int:
    """``int()``: towards zero; a text must spell a number."""
    return value if type(value) is int else int(_read(value, "int"))


def fraction(value: Any, bottom: Any = 1) -> Number:
    """``float()`` and ``Fraction()``: the exact number; a text must spell a number."""
    return divide(_read(value, "Fraction"), _read(bottom, "Fraction"))


def nearest(value: Any, digits: Any = 0) -> Number:
    """``round()``, halves away from zero."""
    if not isinstance(digits, int) or not -9 <= digits <= 9:
        raise ExpressionError(f"expected round() to -9 ... 9 digits, got {shown(digits)}")
    return round_half_away(number(value, "round"), digits)


def whole_range(*bounds: Any) -> range:
    """``range()``."""
    steps = [number(bound, "range") for bound in bounds]
    if not 1 <= len(steps) <= 3 or not all(isinstance(step, int) for step in steps):
        raise ExpressionError(f"expected range() of one to three whole numbers, got {shown(bounds)}")
    result = range(*steps)  # type: ignore[arg-type]
    if max(abs(step) for step in steps) > LARGEST or len(result) > WIDEST:
        raise ExpressionError(f"expected a range of at most {WIDEST} numbers, got {shown(result)}")
    return result


def exact_range(*bounds: Any) -> Steps:
    """``np.arange`` and ``frange``: start, start + step, ... below stop, without rounding noise."""
    numbers = [Fraction(number(bound, "arange")) for bound in bounds]
    if not 1 <= len(numbers) <= 3:
        raise ExpressionError(f"expected arange() of one to three numbers, got {len(numbers)}")
    start, stop = (Fraction(0), numbers[0]) if len(numbers) == 1 else numbers[:2]
    step = numbers[2] if len(numbers) == 3 else Fraction(1)
    if step == 0:
        raise ExpressionError("expected a step other than zero, got 0")
    count = max(0, math.ceil((stop - start) / step))
    if count > LONGEST:
        raise ExpressionError(f"expected at most {LONGEST} steps, got {count}")
    return Steps(exact(start + index * step) for index in range(count))


def random_integers(low: Any, high: Any, count: Any = 1) -> range:
    """``np.random.randint(low, high, count)`` as the numbers that each of its draws may give."""
    if not isinstance(count, int) or count < 1:
        raise ExpressionError(f"expected a count of at least 1 for np.random.randint(), got {shown(count)}")
    return whole_range(low, high)


def numbers_within(low: Any, high: Any, step: Any = 1) -> list[Worded]:
    """Whole numbers from ``low`` to ``high``, both included, written in words ("two", "forty-two")."""
    values = items(whole_range(low, number(high, "numbers_within") + 1, step))
    return [Worded(number_words(value), value) for value in values]


def items(value: Any) -> list[Any]:
    """``list()``, and ``shuffle_list()`` too: items are drawn at random anyway."""
    if not isinstance(value, list | tuple | range) or len(value) > LONGEST:
        raise ExpressionError(f"expected a list of at most {LONGEST} items, got {shown(value)}")
    return list(value)


def rounded_items(value: Any, digits: Any = 2) -> Any:
    """``fix_floats``: every number of a list, or one number, rounded to cents."""
    if isinstance(value, list | tuple | range):
        return [nearest(part, digits) for part in items(value)]
    return nearest(value, digits)


def mixed_number(value: Any) -> str:
    """``format_frac``: 7/4 as "1 3/4"."""
    value = number(value, "format_frac")
    size, sign = abs(value), "-" if value < 0 else ""
    if isinstance(size, int):
        return written(value)
    units, rest = divmod(size.numerator, size.denominator)
    return f"{sign}{units} {rest}/{size.denominator}" if units else f"{sign}{rest}/{size.denominator}"


def _read(value: Any, what: str) -> Number:
    if isinstance(value, str):
        spelled = parsed_number(value)
        if spelled is None:
            raise ExpressionError(f"expected {what}() of a number, got {shown(value)}")
        return spelled
    return number(value, what)


def _numbers(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    return lambda *values: function(*[number(value, name) for value in values])


_LISTING = LONGEST // 10
"""Price of a call that may go through a list."""

FUNCTIONS: dict[str, Function] = {
    "is_int": (is_int, 1),
    "divides": (divides, 1),
    "int": (whole, 1),
    "float": (fraction, 2),
    "Fraction": (fraction, 2),
    "round": (nearest, 3),
    "abs": (_numbers(abs, "abs"), 1),
    "min": (_numbers(min, "min"), 10),
    "max": (_numbers(max, "max"), 10),
    "math.ceil": (_numbers(math.ceil, "math.ceil"), 1),
    "math.floor": (_numbers(math.floor, "math.floor"), 1),
    "range": (whole_range, 3),
    "np.arange": (exact_range, _LISTING),
    "frange": (exact_range, _LISTING),
    "numbers_within": (numbers_within, _LISTING),
    "list": (items, _LISTING),
    "shuffle_list": (items, _LISTING),
    "fix_floats": (rounded_items, _LISTING),
    "format_frac": (mixed_number, 3),
}
DOMAINS: dict[str, Function] = {**FUNCTIONS, "np.random.randint": (random_integers, 3)}
"""The functions of #init lines."""
