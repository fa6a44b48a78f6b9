"""Progress of a run: what it is doing, how much is left and what it found, for the terminal and the run folder.

The folder gets ``run.log``, one line per event, and ``.status.json``, the work under way, rewritten every few seconds
for `cca status`, which may be called on another machine.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from cca.engines.engine import Progress
from cca.files import write_json

LOG, CURRENT = "run.log", ".status.json"
EVERY = 3.0
"""Seconds between two writes of ``.status.json``."""


class RunProgress(Protocol):
    def say(self, text: str) -> None:
        """Show one line: a finding or a decision."""
        ...

    def work(self, what: str, total: int | None) -> AbstractContextManager[Progress]:
        """Show work that takes time; call the function it gives with how many more of ``total`` items are done."""
        ...


class NoProgress:
    """Shows nothing."""

    def say(self, text: str) -> None:
        del text

    @contextmanager
    def work(self, what: str, total: int | None) -> Iterator[Progress]:
        del what, total
        yield lambda _: None


class LoggedProgress:
    """Writes the progress into the run folder and passes it on to another `RunProgress`."""

    def __init__(self, folder: Path, shown: RunProgress) -> None:
        self.folder, self.shown = folder, shown

    def say(self, text: str) -> None:
        self.log(text)
        self.shown.say(text)

    def log(self, text: str) -> None:
        """Write a line into ``run.log`` alone."""
        with (self.folder / LOG).open("ab", buffering=0) as handle:
            handle.write(f"{now()} {' '.join(text.split())}\n".encode("utf-8", "replace"))

    @contextmanager
    def work(self, what: str, total: int | None) -> Iterator[Progress]:
        self.log(f"{what}{'' if total is None else f' ({total})'} ...")
        began, current = time.monotonic(), _CurrentWork(self.folder, what, total)
        current.write()
        with self.shown.work(what, total) as show:

            def progress(done: int) -> None:
                show(done)
                current.add(done)

            yield progress
        self.log(f"{what}: {time.monotonic() - began:.1f} s")


class _CurrentWork:
    """One piece of work and how much of it is done, as ``.status.json`` has it."""

    def __init__(self, folder: Path, what: str, total: int | None) -> None:
        self.path = folder / CURRENT
        self.what, self.total, self.done = what, total, 0
        self.first: int | None = None
        """Items that an earlier process had done: the first progress of a resumed stage, which took no time here."""
        self.began = self.written = time.monotonic()
        self.since = now()

    def add(self, done: int) -> None:
        if self.first is None and time.monotonic() - self.began < 0.1:
            self.first = done
        self.done += done
        if time.monotonic() - self.written > EVERY:
            self.write()

    def write(self) -> None:
        self.written = time.monotonic()
        done_here = self.done - (self.first or 0)
        each = (self.written - self.began) / done_here if done_here > 0 else None
        left = None if self.total is None or each is None else each * (self.total - self.done)
        whole = {
            "what": self.what, "done": self.done, "total": self.total, "since": self.since, "updated": now(),
            "seconds_each": each if each is None else round(each, 4),
            "seconds_left": left if left is None else round(left, 1),
        }  # fmt: skip
        write_json(self.path, whole)


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
