"""Methods that template expressions may call on a value, as in ``color.lower()``.

A method is looked up by its name among those listed here and called as a function of ours: nothing is ever read
from an object. ``.numerator`` and ``.denominator`` are the only two that are written without brackets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cca.problems.templates.exact_numbers import LONGEST, ExpressionError, number, shown
from cca.problems.templates.formats import filled, text
from cca.problems.templates.functions import is_int, items, nearest
from cca.problems.templates.operators import Array


def _string(value: Any, what: str) -> str:
    if isinstance(value, int | float):
        raise ExpressionError(f"expected a text before .{what}(), got {shown(value)}")
    return text(value)


def _of_text(name: str, change: Callable[[str], Any]) -> Callable[[Any], Any]:
    return lambda value: change(_string(value, name))


def _replace(value: Any, old: Any, new: Any) -> str:
    old, new, value = text(old), text(new), _string(value, "replace")
    if len(value) * max(len(new), 1) > LONGEST:
        raise ExpressionError(f"expected texts of at most {LONGEST} characters from .replace(), got more")
    return value.replace(old, new)


def _index(value: Any, item: Any) -> int:
    return items(value).index(item)


def _round(value: Any, digits: Any = 0) -> Any:
    if isinstance(value, list):
        return Array([nearest(item, digits) for item in items(value)])
    return nearest(value, digits)


def _entries(value: Any) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise ExpressionError(f"expected a dictionary, got {shown(value)}")
    return value


METHODS: dict[str, Callable[..., Any]] = {
    "lower": _of_text("lower", str.lower),
    "upper": _of_text("upper", str.upper),
    "title": _of_text("title", str.title),
    "capitalize": _of_text("capitalize", str.capitalize),
    "strip": _of_text("strip", str.strip),
    "split": _of_text("split", str.split),
    "replace": _replace,
    "format": lambda value, *parts: filled(_string(value, "format"), *parts),
    "index": _index,
    "tolist": items,
    "round": _round,
    "is_integer": is_int,
    "keys": lambda value: list(_entries(value)),
    "values": lambda value: list(_entries(value).values()),
    "items": lambda value: list(_entries(value).items()),
    "get": lambda value, *key: _entries(value).get(*key),
}

PROPERTIES: dict[str, Callable[[Any], Any]] = {
    "numerator": lambda value: number(value, "numerator").numerator,
    "denominator": lambda value: number(value, "denominator").denominator,
}
