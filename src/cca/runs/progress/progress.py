"""What a run leaves in its folder for who watches it: ``run.log``, a line an event, and where it stands right now.

Wraps the narrator that talks to the terminal. The standing (``.status.json``) is rewritten every few seconds, for
`cca status`, which may be asked from another machine.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cca.engines.engine import Progress
from cca.files import write_json
from cca.runs.folder.owner import now
from cca.runs.progress.narrator import Narrator

LOG, STANDING = "run.log", ".status.json"
EVERY = 3.0
"""Seconds between two writings of the standing."""


class Journal:
    """A `Narrator` that also writes down what it tells."""

    def __init__(self, folder: Path, narrator: Narrator) -> None:
        self.folder, self.narrator = folder, narrator

    def say(self, text: str) -> None:
        self.log(text)
        self.narrator.say(text)

    def log(self, text: str) -> None:
        """Write a line into the log alone."""
        with (self.folder / LOG).open("ab", buffering=0) as handle:
            handle.write(f"{now()} {' '.join(text.split())}\n".encode("utf-8", "replace"))

    @contextmanager
    def work(self, what: str, total: int | None) -> Iterator[Progress]:
        self.log(f"{what}{'' if total is None else f' ({total})'} ...")
        began, standing = time.monotonic(), _Standing(self.folder, what, total)
        standing.write()
        with self.narrator.work(what, total) as tell:

            def progress(done: int) -> None:
                tell(done)
                standing.add(done)

            yield progress
        self.log(f"{what}: {time.monotonic() - began:.1f} s")


class _Standing:
    """One piece of work, and how much of it is done."""

    def __init__(self, folder: Path, what: str, total: int | None) -> None:
        self.path = folder / STANDING
        self.what, self.total, self.done = what, total, 0
        self.first: int | None = None
        """What was done when this sitting began: the first progress of a resumed stage is no work of ours."""
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
        worked = self.done - (self.first or 0)
        seconds = self.written - self.began
        left = None if self.total is None or worked <= 0 else seconds / worked * (self.total - self.done)
        whole = {
            "what": self.what,
            "done": self.done,
            "total": self.total,
            "since": self.since,
            "updated": now(),
        }
        write_json(self.path, {**whole, "seconds_left": left if left is None else round(left, 1)})
