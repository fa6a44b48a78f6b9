"""What a run tells whoever watches it: what it is doing, how much is left, what it found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from cca.engines.engine import Progress


class Narrator(Protocol):
    def say(self, text: str) -> None:
        """Something found or decided."""
        ...

    def work(self, what: str, total: int | None) -> AbstractContextManager[Progress]:
        """Something that takes time; the progress function is told how many more of ``total`` are done."""
        ...


class Silent:
    """Tells nobody."""

    def say(self, text: str) -> None:
        del text

    @contextmanager
    def work(self, what: str, total: int | None) -> Iterator[Progress]:
        del what, total
        yield lambda _: None
