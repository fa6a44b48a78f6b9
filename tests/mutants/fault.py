"""A fault to plant: a text of a module, and what stands there instead."""

from __future__ import annotations

from typing import NamedTuple


class Fault(NamedTuple):
    name: str
    """What goes wrong, or what it would do to a user."""
    module: str
    old: str
    """Found once in the module."""
    new: str
    tests: tuple[str, ...]
    """Those of its part, which must notice."""


def of(module: str, tests: str, *faults: tuple[str, str, str]) -> list[Fault]:
    """The faults (name, old, new) of ``cca.module``; ``tests`` are paths below ``tests``, apart by spaces."""
    paths = tuple(f"tests/{path}" for path in tests.split())
    return [Fault(name, f"cca.{module}", old, new, paths) for name, old, new in faults]
