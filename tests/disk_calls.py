"""What a program asks of the disk, in order: for tests of what would outlast a power cut."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Call = tuple[str, str]
"""What was done, and the name of the file or folder it was done to."""


def recorded(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """A list that grows by every flush, rename, removal and write at a place; all of them are done as well."""
    calls: list[Call] = []

    def wrap(name: str, subject: Callable[..., str]) -> None:
        original = getattr(os, name)

        def wrapped(*arguments: Any, **named: Any) -> Any:
            calls.append((name, Path(subject(*arguments)).name))
            return original(*arguments, **named)

        monkeypatch.setattr(os, name, wrapped)

    def opened(descriptor: int, *_: object) -> str:
        return os.readlink(f"/proc/self/fd/{descriptor}")

    wrap("fsync", opened)
    wrap("pwrite", opened)
    wrap("replace", lambda _, target: os.fspath(target))
    wrap("unlink", os.fspath)
    return calls
