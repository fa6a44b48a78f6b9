"""What was measured on a model, kept by what it was measured on, so that nothing is measured twice.

Validating a step and testing a patch take most of a run's time. Each measurement (the verdicts on a chunk of problems,
the base's answers to it, a drift) is a row of ``measurements.jsonl`` under the hash of all that decides it: base model,
the weights put into it, problems, judge, longest completion. A killed run takes its steps again, which is cheap, and
finds their validations here; a fork finds those of the run it came from.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cca.runs.folder.row_log import append_lines, sealed_line, unsealed

FILE = "measurements.jsonl"
HEADER = {"format": "cca.measurements", "version": 1}


class Measurements:
    """The rows of a run folder by their keys. Rows that are torn or have changed are as good as not there."""

    def __init__(self, folder: Path, file: str = FILE, header: Mapping[str, Any] = HEADER) -> None:
        self.path, self.header = folder / file, json.dumps(header)
        self._known: dict[str, Any] = {}
        data = self.path.read_bytes() if self.path.exists() else b""
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            os.truncate(self.path, whole)
        lines = data[:whole].split(b"\n")[:-1]
        if not lines or lines[0] != self.header.encode():
            self.path.unlink(missing_ok=True)
            return
        for line in lines[1:]:
            row = unsealed(line)
            if row is not None and isinstance(row.get("key"), str):
                self._known[row["key"]] = row.get("value")

    def get(self, key: str) -> Any:
        """The value under ``key``; None when it was not measured yet."""
        return self._known.get(key)

    def put(self, key: str, value: Any) -> None:
        """Keep a value, flushed to disk."""
        lines = [] if self.path.exists() else [self.header]
        append_lines(self.path, [*lines, sealed_line({"key": key, "value": value})])
        self._known[key] = value
