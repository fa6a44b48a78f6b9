"""A section of a configuration: unknown keys are refused, and the text below a field is its help."""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from pydantic import BaseModel, ConfigDict

from cca.errors import CcaError

MOST_VALUES = 100_000
"""Values that a configuration may hold, with those that YAML aliases repeat."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, frozen=True)


def load_entry(entry: Any) -> Any:
    """The object that a row of a table holds: itself, or the ``module:name`` of one, imported on first use."""
    if not isinstance(entry, str):
        return entry
    module, _, name = entry.partition(":")
    return getattr(import_module(module), name)


def check_plain(given: Mapping[str, Any]) -> None:
    """Raises CcaError naming the key of a value that no manifest can hold.

    These are infinite numbers and NaN, texts with a NUL or half a surrogate pair, values that contain themselves, and
    more than `MOST_VALUES` values: a page of YAML aliases can stand for billions.
    """
    left = MOST_VALUES

    def check(value: Any, key: str, within: tuple[int, ...]) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise CcaError(
                f"config: expected at most {MOST_VALUES:,} values, got more (in {key!r}); are YAML aliases nested?"
            )
        if isinstance(value, float) and not math.isfinite(value):
            raise CcaError(f"config key {key!r}: expected a finite number, got {value}")
        if isinstance(value, str):
            _check_text(value, key)
        if isinstance(value, Mapping | list | tuple):
            if id(value) in within or len(within) > 50:
                raise CcaError(f"config key {key!r}: expected plain values, got one that contains itself")
            items = value.items() if isinstance(value, Mapping) else enumerate(value)
            for name, item in items:
                check(name, key, ())
                check(item, f"{key}.{name}" if key else str(name), (*within, id(value)))

    check(given, "", ())


def _check_text(text: str, key: str) -> None:
    if "\0" in text:
        raise CcaError(f"config key {key!r}: expected text without NUL characters, got {text!r:.80}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise CcaError(f"config key {key!r}: expected text in UTF-8, got {text!r:.80}") from error
