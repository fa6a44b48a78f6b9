"""Measurements on a model, kept so that none is made twice.

Validating a step and testing a patch take most of a run's time. Each measurement (the verdicts on a chunk of problems,
the base's answers to it, a drift) is a row of ``measurements.jsonl``. Its key is the hash of all that decides it: base
model, edited weights, problems, judge, longest completion. A resumed run repeats its steps, which is cheap, and finds
their validations here; a fork finds those of the run it came from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cca.runs.folder.row_log import RowLog

FILE = "measurements.jsonl"
HEADER = {"format": "cca.measurements", "version": 1}


class Measurements:
    """The measurements of a run folder by key. ``done`` is called whenever one is on disk."""

    def __init__(
        self,
        folder: Path,
        done: Callable[[], None] = lambda: None,
        file: str = FILE,
        header: Mapping[str, Any] = HEADER,
    ) -> None:
        self._log, self._done = RowLog(folder / file, header), done
        self._known: dict[str, Any] = {
            row["key"]: row.get("value") for row in self._log.rows() if isinstance(row.get("key"), str)
        }

    def get(self, key: str) -> Any:
        """The value under ``key``; None when it was not measured yet."""
        return self._known.get(key)

    def put(self, key: str, value: Any) -> None:
        """Keep a value (anything that JSON holds), flushed to disk."""
        self._log.append([{"key": key, "value": value}])
        self._known[key] = value
        self._done()
