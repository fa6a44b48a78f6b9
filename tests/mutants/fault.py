"""A fault to plant: a text of a module, and what stands there instead."""

from __future__ import annotations

from typing import NamedTuple


class Fault(NamedTuple):
    name: str
    why: str
    """What it would do to a user, or what it breaks."""
    module: str
    old: str
    """Found once in the module."""
    new: str
    tests: tuple[str, ...]
    """Those of its part, which must notice."""


def of(module: str, tests: str, *faults: tuple[str, str, str, str]) -> list[Fault]:
    """The faults (name, why, old, new) of one module; ``tests`` are paths below ``tests``, apart by spaces."""
    paths = tuple(f"tests/{path}" for path in tests.split())
    return [Fault(name, why, module, old, new, paths) for name, why, old, new in faults]
