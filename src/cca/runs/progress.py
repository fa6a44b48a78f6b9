"""Progress of a run: what it is doing, how much is left and what it found, for the terminal and the run folder.

The folder gets ``run.log``, one line per event, and ``.status.json``, the work under way, rewritten every few seconds
for `cca status`, which may be called on another machine.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from cca.engines.engine import Progress
from cca.files import write_json

LOG, CURRENT = "run.log", ".status.json"
EVERY, LINE_EVERY = 3.0, 60.0
"""Seconds between two writes of ``.status.json``, and between two lines that say how far the work is."""


class RunProgress(Protocol):
    def say(self, text: str) -> None:
        """Show one line: a finding or a decision."""
        ...

    def alive(self, text: str) -> None:
        """Show once a minute, from another thread, how far the work is, where nothing else shows that."""
        ...

    def work(self, what: str, total: int | None) -> AbstractContextManager[Progress]:
        """Show work that takes time; call the function it gives with how many more of ``total`` items are done."""
        ...


class NoProgress:
    """Shows nothing."""

    def say(self, text: str) -> None:
        del text

    def alive(self, text: str) -> None:
        del text

    @contextmanager
    def work(self, what: str, total: int | None) -> Iterator[Progress]:
        del what, total
        yield lambda _: None


class LoggedProgress:
    """Writes the progress into the run folder and passes it on to another `RunProgress`."""

    def __init__(self, folder: Path, shown: RunProgress) -> None:
        self.folder, self.shown = folder, shown
        self.tokens: Callable[[], int] = lambda: 0
        """Tokens generated so far."""

    def say(self, text: str) -> None:
        self.log(text)
        self.shown.say(text)

    def alive(self, text: str) -> None:
        self.shown.alive(text)

    def log(self, text: str) -> None:
        """Write a line into ``run.log`` alone."""
        with (self.folder / LOG).open("ab", buffering=0) as handle:
            handle.write(f"{now()} {' '.join(text.split())}\n".encode("utf-8", "replace"))

    @contextmanager
    def work(self, what: str, total: int | None) -> Iterator[Progress]:
        self.log(f"{what}{'' if total is None else f' ({total})'} ...")
        current = _CurrentWork(self.folder, what, total, self.tokens)
        current.write()
        with self.shown.work(what, total) as show, self._alive(current):

            def progress(done: int) -> None:
                show(done)
                current.add(done)

            yield progress
        self.log(f"{what}: {time.monotonic() - current.began:.1f} s")

    @contextmanager
    def _alive(self, current: _CurrentWork) -> Iterator[None]:
        """Signs of life, whatever the work is doing: the file every few seconds, a line every minute."""
        ended = threading.Event()

        def beat() -> None:
            minutes = 0
            while not ended.wait(EVERY):
                with suppress(OSError):  # a full disk ends no sign of life
                    current.write()
                if time.monotonic() - current.began >= LINE_EVERY * (minutes + 1):
                    minutes += 1
                    line = current.line()
                    self.shown.alive(line)
                    with suppress(OSError):
                        self.log(line)

        thread = threading.Thread(target=beat, name="progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            current.write()


class _CurrentWork:
    """One piece of work and how much of it is done, as ``.status.json`` has it."""

    def __init__(self, folder: Path, what: str, total: int | None, tokens: Callable[[], int]) -> None:
        self.path = folder / CURRENT
        self.what, self.total, self.done = what, total, 0
        self.first = 0
        """Items that an earlier process had done: the first progress of a resumed stage, which took no time here."""
        self.began = time.monotonic()
        self.since = now()
        self.tokens, self.tokens_before = tokens, tokens()

    def add(self, done: int) -> None:
        if not self.done and time.monotonic() - self.began < 0.1:
            self.first = done
        self.done += done

    def facts(self) -> dict[str, Any]:
        elapsed = max(time.monotonic() - self.began, 1e-9)
        done_here = self.done - self.first
        each = elapsed / done_here if done_here > 0 else None
        left = None if self.total is None or each is None else each * (self.total - self.done)
        rate = (self.tokens() - self.tokens_before) / elapsed
        return {
            "what": self.what, "done": self.done, "total": self.total, "since": self.since, "updated": now(),
            "seconds_each": each if each is None else round(each, 4),
            "seconds_left": left if left is None else round(left, 1),
            "tokens_per_second": round(rate, 1) if rate else None,
        }  # fmt: skip

    def write(self) -> None:
        write_json(self.path, self.facts())

    def line(self) -> str:
        """What is done, how fast, and how long the rest would take at that rate."""
        facts = self.facts()
        of = "" if self.total is None else f" of {self.total}"
        parts = [f"{self.done}{of} done after {time.monotonic() - self.began:.0f} s"]
        if facts["tokens_per_second"] is not None:
            parts.append(f"{facts['tokens_per_second']:g} tokens a second")
        if facts["seconds_left"] is not None:
            parts.append(f"about {facts['seconds_left']:.0f} s left")
        return f"{self.what}: {', '.join(parts)}"


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
