"""What ``+ - * / // % **`` do in template expressions: to numbers exactly, to texts and lists within bounds.

An `Array` is what numpy's functions give: ``np.arange(1, 4) * 10`` is 10, 20, 30, where a list would be repeated.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from cca.problems.templates.exact_numbers import (
    LARGEST,
    LONGEST,
    ExpressionError,
    Number,
    exact,
    number,
    shown,
)
from cca.problems.templates.formats import percent_filled

Closure = Callable[[Any], Any]

LONGEST_ARRAY = 2_000
"""No array may be longer when it is reckoned with: each of its items costs as much as a number."""


class Array(list[Any]):
    """A list that is reckoned with item by item."""

    __slots__ = ()


def bulk(value: Any) -> int:
    """The items and characters in a text, list or dictionary, those of the lists in it included."""
    if isinstance(value, list | tuple | dict):
        inner = value.values() if isinstance(value, dict) else value
        return len(value) + sum(bulk(item) for item in inner if isinstance(item, list | tuple | dict))
    return len(value)


def bounded(value: Any) -> Any:
    """A text or list no longer than LONGEST, or a number that `exact` accepts."""
    if isinstance(value, str | list | tuple):
        if len(value) > LONGEST:
            raise ExpressionError(f"expected at most {LONGEST} items or characters, got {len(value)}")
        return value
    return exact(value)


def _arrays(one: Any, other: Any) -> bool:
    return isinstance(one, Array) or isinstance(other, Array)


def multiply(one: Any, other: Any) -> Any:
    """``one * other`` where a number repeats a text or a list only up to LONGEST."""
    if _arrays(one, other):
        return one * other
    for whole, count in ((one, other), (other, one)):
        if isinstance(whole, str | list | tuple):
            times = number(count, "a repetition")
            if not isinstance(times, int) or max(bulk(whole), 1) * times > LONGEST:
                raise ExpressionError(
                    f"expected at most {LONGEST} items or characters, got a repetition of {shown(count)}"
                )
            return whole * times
    return exact(number(one, "a product") * number(other, "a product"))


def divide(one: Any, other: Any) -> Any:
    if _arrays(one, other):
        return one / other
    return exact(Fraction(number(one, "a division")) / number(other, "a division"))


def power(base: Any, exponent: Any) -> Any:
    if _arrays(base, exponent):
        return base**exponent
    base, exponent = number(base, "a power"), number(exponent, "an exponent")
    if exponent == Fraction(1, 2):
        return root(base)
    if not isinstance(exponent, int):
        raise ExpressionError(f"expected a whole exponent or 1/2, got {shown(exponent)}")
    digits = max(abs(base.numerator).bit_length(), base.denominator.bit_length()) - 1
    if abs(exponent) > 64 or digits * abs(exponent) > LARGEST.bit_length():
        raise ExpressionError(f"expected powers up to 1e18, got {shown(base)} ** {shown(exponent)}")
    return exact(Fraction(base) ** exponent)


def root(value: Any) -> Number:
    """The square root where it is exact; other roots have no place in an answer."""
    value = Fraction(number(value, "a square root"))
    if value >= 0:
        top, bottom = math.isqrt(value.numerator), math.isqrt(value.denominator)
        if top * top == value.numerator and bottom * bottom == value.denominator:
            return exact(Fraction(top, bottom))
    raise ExpressionError(f"expected a perfect square, got {shown(value)}")


def operation(kind: ast.operator, left: Closure, right: Closure) -> Closure:
    """The closure of ``left kind right``. Raises ExpressionError for an operator that templates have no use for."""
    match kind:
        case ast.Add():

            def add(values: Any) -> Any:
                result = left(values) + right(values)
                return result if type(result) is int else bounded(result)

            return add
        case ast.Sub():

            def subtract(values: Any) -> Any:
                result = left(values) - right(values)
                return result if type(result) is int else exact(result)

            return subtract
        case ast.Mult():

            def product(values: Any) -> Any:
                one, other = left(values), right(values)
                if type(one) is int and type(other) is int:
                    result = one * other
                    if -LARGEST < result < LARGEST:
                        return result
                return multiply(one, other)

            return product
        case ast.Div():

            def quotient(values: Any) -> Any:
                one, other = left(values), right(values)
                if type(one) is int and type(other) is int and not one % other:
                    return one // other
                return divide(one, other)

            return quotient
        case ast.FloorDiv():
            return lambda values: exact(left(values) // right(values))
        case ast.Mod():

            def remainder(values: Any) -> Any:
                one = left(values)
                if isinstance(one, str):
                    return percent_filled(one, right(values))
                return exact(one % right(values))

            return remainder
        case ast.Pow():
            return lambda values: power(left(values), right(values))
    raise ExpressionError(f"operator {type(kind).__name__} is not allowed in a template")


def _by_item(function: Callable[[Any, Any], Any], swapped: bool) -> Callable[[Array, Any], Array]:
    def call(array: Array, other: Any) -> Array:
        if len(array) > LONGEST_ARRAY:
            raise ExpressionError(f"expected an array of at most {LONGEST_ARRAY} items, got {len(array)}")
        others = other if isinstance(other, list | tuple | range) else [other] * len(array)
        if len(others) != len(array):
            raise ExpressionError(f"expected arrays of one length, got {len(array)} and {len(others)} items")
        pairs = zip(others, array, strict=True) if swapped else zip(array, others, strict=True)
        return Array([function(number(one, "an array"), number(two, "an array")) for one, two in pairs])

    return call


for _name, _function in {
    "add": lambda one, other: exact(one + other),
    "sub": lambda one, other: exact(one - other),
    "mul": multiply,
    "truediv": divide,
    "floordiv": lambda one, other: exact(one // other),
    "mod": lambda one, other: exact(operator.mod(one, other)),
    "pow": power,
}.items():
    setattr(Array, f"__{_name}__", _by_item(_function, swapped=False))
    setattr(Array, f"__r{_name}__", _by_item(_function, swapped=True))
