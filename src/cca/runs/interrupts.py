"""Ctrl-C, and the SIGTERM of a scheduler that wants the machine back: once finishes the chunk, twice stops now.

Either way the folder is whole; stopping now gives up the work since the last chunk. Several processes stop together,
after the chunk: their launcher passes on each signal that they also get themselves, and ends them if it takes long.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

from cca import distributed

SIGNALS = (signal.SIGINT, signal.SIGTERM)
ASKED = b"\nstopping after this chunk; once more (Ctrl-C) stops now\n"


class Stopped(KeyboardInterrupt):
    """The run was asked to stop, and did so between two chunks. ``signal`` is what asked."""

    def __init__(self, signal: int) -> None:
        super().__init__("stopped between two chunks")
        self.signal = signal


class Interrupts:
    """While open, the first signal is kept for `check`; the second raises where the program stands."""

    def __init__(self) -> None:
        self.asked: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._receive) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Raise Stopped when a signal has come since, to this process or to another of the run."""
        # a signal may come while the others are asked: what it leaves is for the next time
        asked = max(asked or 0 for asked in distributed.all_gather_json(self.asked))
        if asked:
            raise Stopped(asked)

    def _receive(self, number: int, _: FrameType | None) -> None:
        if distributed.size() > 1:
            self.asked = number
            return
        if self.asked is not None:
            raise KeyboardInterrupt
        self.asked = number
        os.write(2, ASKED)  # the handler may have interrupted a print, so it must not print itself
