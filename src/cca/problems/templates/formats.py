"""Numbers and values as text: the formats of slots (``{price:.2f}``), of ``"{}".format()`` and of ``"%d" %``."""

from __future__ import annotations

import re
from typing import Any

from cca.problems.templates.exact_numbers import LONGEST, ExpressionError, Worded, number, rounded, written

SHAPE = re.compile(r"(0\d)?(,?)(?:\.(\d))?([fd%]?)")
"""The format of a slot, ``:,`` or ``:.2f`` or ``:02d``: (width, comma, places, kind)."""

_FIELD = re.compile(r"\{\{|\}\}|\{(\d*)(?::([^{}]*))?\}")
_BRACE = re.compile(r"[{}]")
_PERCENT_FIELD = re.compile(r"%%|%(0\d)?(?:\.(\d))?([dfis])")


def text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return value.text if isinstance(value, Worded) else written(number(value, "str"))


def shaped(value: Any, width: str | None, comma: str, places: str | None, kind: str) -> str:
    """A number in the format that the groups of SHAPE give. Raises ExpressionError for what is no number."""
    amount = number(value, "a formatted slot") * (100 if kind == "%" else 1)
    digits = int(places) if places is not None else 0
    shape = rounded(amount, digits) if places is not None or kind in ("f", "%") else written(amount)
    if comma and len(shape) < LONGEST:
        units, point, cents = shape.partition(".")
        shape = f"{int(units):,}{point}{cents}"
    shape = shape.zfill(int(width)) if width else shape
    return shape + ("%" if kind == "%" else "")


def formatted(value: Any, shape: str) -> str:
    """A value as ``format`` writes it; the shape is empty or one of SHAPE."""
    groups = SHAPE.fullmatch(shape)
    if groups is None:
        raise ExpressionError(f"expected a format such as ',' or '.2f', got '{shape[:20]}'")
    return shaped(value, *groups.groups()) if shape else text(value)


def filled(pattern: str, *values: Any) -> str:
    """``"{} of {:.2f}".format(...)``: fields by order or number, never by name."""
    if _BRACE.search(_FIELD.sub("", pattern)):
        raise ExpressionError(f"expected fields such as {{}} or {{:.2f}}, got '{pattern[:20]}'")
    places = iter(range(LONGEST))

    def field(found: re.Match[str]) -> str:
        if found.group() in ("{{", "}}"):
            return found.group()[0]
        index = int(found[1][:4]) if found[1] else next(places)
        if index >= len(values):
            raise ExpressionError(f"expected {index + 1} values to fill in, got {len(values)}")
        return formatted(values[index], found[2] or "")

    return _short(_FIELD.sub(field, pattern))


def percent_filled(pattern: str, values: Any) -> str:
    """``"%d of %.2f" % (...)``."""
    left = list(values) if isinstance(values, tuple) else [values]

    def field(found: re.Match[str]) -> str:
        if found.group() == "%%":
            return "%"
        if not left:
            raise ExpressionError("expected a value for every '%' of the text, got fewer")
        width, places, kind = found.groups()
        if kind == "s":
            return text(left.pop(0))
        return shaped(left.pop(0), width, "", places or ("6" if kind == "f" else None), "f")

    made = _PERCENT_FIELD.sub(field, pattern)
    if left:
        raise ExpressionError(f"expected a field such as %d or %.2f for every value, got '{pattern[:20]}'")
    return _short(made)


def _short(made: str) -> str:
    if len(made) > LONGEST:
        raise ExpressionError(f"expected texts of at most {LONGEST} characters, got {len(made)}")
    return made
