"""A section of a configuration: unknown keys are refused, and the text below a field is its help."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from cca.errors import CcaError

MOST_VALUES = 100_000
"""Values that a configuration may hold, with those that YAML aliases repeat."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _heading(cls, given: Any) -> Any:
        """A heading without keys, as `cca init` leaves them, is a section of defaults."""
        return {} if given is None else given


def first_fault(error: ValidationError, what: str, known: Callable[[list[str]], Sequence[str]]) -> str:
    """The first fault in one line that names the key, a ``what``; an unknown key comes before all others.

    ``known`` gives the keys of the section at a path.
    """
    fault = next((f for f in error.errors() if f["type"] == "extra_forbidden"), error.errors()[0])
    path = [str(part) for part in fault["loc"]]
    shape = 1 if path[0] == "task" else None  # the tag of a union's member, which is nobody's key
    where = ".".join(part for i, part in enumerate(path) if i != shape and part not in ("str", "dict[str,any]"))
    match fault["type"]:
        case "extra_forbidden":
            return f"unknown {what} {where!r}; {nearest(path[-1], known(path[:-1]))}"
        case "missing":
            return f"{what} {where!r} is missing"
    return f"{what} {where!r}: {fault['msg'].lower().removeprefix('value error, ')}, got {fault['input']!r:.80}"


def nearest(name: str, known: Sequence[str]) -> str:
    """A hint for who mistyped ``name``: the known key like it, or all of them."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"


def merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``over`` laid over ``under``, section by section; a section without keys takes nothing away."""
    made = dict(under)
    for key, value in over.items():
        old = made.get(key)
        sections = isinstance(old, Mapping) and isinstance(value, Mapping | None)
        made[key] = merged(old, value or {}) if sections else value
    return made


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
