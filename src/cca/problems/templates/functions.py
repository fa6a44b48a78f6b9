"""The functions that template expressions may call, each bounded in time and size and exact on numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

from cca.problems.templates.exact_numbers import (
    LARGEST,
    LONGEST,
    ExpressionError,
    Number,
    Worded,
    exact,
    number,
    parsed_number,
    round_half_away,
    rounded,
    shown,
    written,
)
from cca.problems.templates.formats import text
from cca.problems.templates.operators import Array, divide, power, root
from cca.problems.templates.word_lists import number_words

WIDEST = 1_000_000
"""No range may hold more numbers than this."""

INIT_ONLY = (
    "sample",
    "sample_sequential",
    "choice",
    "random.choice",
    "random.sample",
    "randint",
    "random.randint",
    "random.randrange",
    "np.random.choice",
    "np.random.randint",
)
"""Draws: they are the sampler's business, never an expression's."""


def is_int(value: Any) -> bool:
    return type(exact(number(value, "is_int"))) is int


def divides(dividend: Any, divisor: Any) -> bool:
    """Whether ``divisor`` goes into ``dividend`` a whole number of times (the order of the published templates)."""
    divisor = number(divisor, "divides")
    return divisor != 0 and number(dividend, "divides") % divisor == 0


def whole(value: Any) -> int:
    """``int()``: towards zero; a text must spell a number."""
    if type(value) is int:
        return value
    return int(_read(value, "int"))


def precise(value: Any, bottom: Any = 1) -> Number:
    """``float()`` and ``Fraction()``: the exact number."""
    return (
        divide(_read(value, "Fraction"), _read(bottom, "Fraction"))
        if bottom != 1
        else exact(_read(value, "float"))
    )


def nearest(value: Any, digits: Any = 0) -> Number:
    if not isinstance(digits, int) or not -9 <= digits <= 9:
        raise ExpressionError(f"expected round() to -9 ... 9 digits, got {shown(digits)}")
    return round_half_away(number(value, "round"), digits)


def span(*bounds: Any) -> range:
    steps = [number(bound, "range") for bound in bounds]
    if not 1 <= len(steps) <= 3 or not all(isinstance(step, int) for step in steps):
        raise ExpressionError(f"expected range() of one to three whole numbers, got {shown(bounds)}")
    result = range(*steps)  # type: ignore[arg-type]
    if max(abs(step) for step in steps) > LARGEST or len(result) > WIDEST:
        raise ExpressionError(f"expected a range of at most {WIDEST} numbers, got {shown(result)}")
    return result


def steps(*bounds: Any) -> Array:
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
    return Array([exact(start + index * step) for index in range(count)])


def spaced(start: Any, stop: Any, count: Any = 50) -> Array:
    first, last, count = number(start, "linspace"), number(stop, "linspace"), number(count, "linspace")
    if not isinstance(count, int) or not 1 <= count <= LONGEST:
        raise ExpressionError(f"expected linspace() of 1 ... {LONGEST} numbers, got {shown(count)}")
    parts = max(count - 1, 1)
    return Array([exact(first + Fraction(last - first) * index / parts) for index in range(count)])


def numbers_within(low: Any, high: Any, step: Any = 1) -> list[Worded]:
    """Whole numbers from ``low`` to ``high``, both included, written in words ("two", "forty-two")."""
    return [
        Worded(number_words(value), value)
        for value in items(span(low, number(high, "numbers_within") + 1, step))
    ]


def strings(low: Any, high: Any, step: Any = 1) -> list[Worded]:
    """``range_str``: a range of numbers in digits, each a pair of text and number as others in words are."""
    return [Worded(str(value), value) for value in items(span(low, high, step))]


def zipped(*lists: Any) -> list[tuple[Any, ...]]:
    return list(zip(*map(items, lists), strict=False))


def items(value: Any) -> list[Any]:
    if not isinstance(value, list | tuple | range | str) or len(value) > LONGEST:
        raise ExpressionError(f"expected a list of at most {LONGEST} items, got {shown(value)}")
    return list(value)


def distinct(value: Any) -> list[Any]:
    """``set()``: the items without repetitions."""
    return list(dict.fromkeys(items(value)))


def tidied(value: Any, digits: Any = 2) -> Any:
    """``fix_floats``: every number of a list rounded to cents (they are exact here, so mostly as they were)."""
    if isinstance(value, list | tuple | range):
        return [nearest(part, digits) for part in items(value)]
    return nearest(value, digits)


def mixed(value: Any) -> str:
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


def _each(function: Callable[..., Any]) -> Callable[..., Any]:
    """numpy's form of a function: of a number, or of every item of a list."""

    def call(value: Any, *rest: Any) -> Any:
        if isinstance(value, list | tuple | range):
            return Array([function(item, *rest) for item in items(value)])
        return function(value, *rest)

    return call


def _folded(function: Callable[[Sequence[Any]], Any]) -> Callable[..., Any]:
    """A function of one list or of several arguments, as min and max are."""

    def call(*arguments: Any) -> Any:
        values = items(arguments[0]) if len(arguments) == 1 else list(arguments)
        return function(values)

    return call


def _whole_numbers(function: Callable[..., int]) -> Callable[..., int]:
    """A function of math on whole numbers that are small enough to be quick."""

    def call(*arguments: Any) -> Any:
        numbers = [number(argument, function.__name__) for argument in arguments]
        if not all(isinstance(value, int) and abs(value) <= LARGEST for value in numbers):
            raise ExpressionError(f"expected {function.__name__}() of whole numbers, got {shown(arguments)}")
        if function in (math.factorial, math.comb, math.perm) and max(numbers, default=0) > 60:
            raise ExpressionError(f"expected {function.__name__}() of at most 60, got {shown(arguments)}")
        return exact(function(*numbers))

    return call


def _sum(values: Sequence[Any]) -> Any:
    total: Any = 0
    for value in values:
        total += number(value, "sum")
    return exact(total)


LISTING = LONGEST // 10
"""Price of a call that may go through a list (one node of an expression costs 1)."""

FUNCTIONS: dict[str, tuple[Callable[..., Any], int]] = {
    "is_int": (is_int, 1),
    "is_integer": (is_int, 1),
    "divides": (divides, 1),
    "int": (whole, 1),
    "float": (precise, 1),
    "Fraction": (precise, 2),
    "Decimal": (precise, 2),
    "round": (nearest, 3),
    "abs": (lambda value: abs(number(value, "abs")), 1),
    "bool": (lambda value: bool(value), 1),
    "str": (text, 1),
    "min": (_folded(min), 10),
    "max": (_folded(max), 10),
    "sum": (_folded(_sum), LISTING),
    "all": (_folded(all), LISTING),
    "any": (_folded(any), LISTING),
    "len": (lambda value: len(value), 1),
    "list": (items, LISTING),
    "tuple": (lambda value: tuple(items(value)), LISTING),
    "set": (distinct, LISTING),
    "sorted": (lambda value: sorted(items(value)), LISTING),
    "range": (span, 3),
    "frange": (steps, LISTING),
    "arange": (steps, LISTING),
    "linspace": (spaced, LISTING),
    "numbers_within": (numbers_within, LISTING),
    "range_str": (strings, LISTING),
    "fix_floats": (tidied, LISTING),
    "shuffle_list": (items, LISTING),
    "shuffle": (items, LISTING),
    "array": (lambda value: Array(items(value)), LISTING),
    "zip": (zipped, LISTING),
    "format_frac": (mixed, 3),
    "format_fraction": (mixed, 3),
    "number_words": (lambda value: number_words(whole(value)), 10),
    "num2words": (lambda value: number_words(whole(value)), 10),
    "num_to_words": (lambda value: number_words(whole(value)), 10),
    "ceil": (lambda value: math.ceil(number(value, "ceil")), 1),
    "floor": (lambda value: math.floor(number(value, "floor")), 1),
    "trunc": (whole, 1),
    "sqrt": (root, 5),
    "pow": (power, 5),
    "gcd": (_whole_numbers(math.gcd), 5),
    "lcm": (_whole_numbers(math.lcm), 5),
    "factorial": (_whole_numbers(math.factorial), 10),
    "comb": (_whole_numbers(math.comb), 10),
    "perm": (_whole_numbers(math.perm), 10),
    "money": (lambda value: rounded(number(value, "money"), 2), 3),
}
_NUMPY = "arange linspace round array floor ceil abs min max sum sqrt gcd lcm"
for _module, _names in {
    "np": _NUMPY,
    "numpy": _NUMPY,
    "math": "floor ceil trunc sqrt gcd lcm factorial comb perm pow",
    "fractions": "Fraction",
}.items():
    for _name in _names.split():
        FUNCTIONS[f"{_module}.{_name}"] = FUNCTIONS[_name]
_BY_ITEM = "round floor ceil abs sqrt".split()
for _name in _BY_ITEM:
    FUNCTIONS[f"np.{_name}"] = FUNCTIONS[f"numpy.{_name}"] = (_each(FUNCTIONS[_name][0]), LISTING)

ARRAYS = frozenset(
    name
    for name in FUNCTIONS
    if name.rpartition(".")[2] in ("arange", "frange", "linspace", "array")
    or (name.partition(".")[0] in ("np", "numpy") and name.rpartition(".")[2] in _BY_ITEM)
)
"""Functions that may give an Array: operators in an expression with one of them go through lists."""
