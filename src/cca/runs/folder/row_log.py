"""Append-only logs of a run: traces, pivots under way, measurements, and the arms of a comparison.

A log is a JSONL file with a header row. Every other row carries the hash of its content, and rows are appended in
chunks and flushed to disk. One rule for a torn end holds for all logs: rows are sound up to the first that is torn or
does not have its hash; what follows is cut off when it can be the rest of one chunk, and the file is refused when it
cannot, because no crash leaves such damage.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cca.errors import CcaError
from cca.files import Row, fingerprint

MEASUREMENTS = "measurements.jsonl"
HEADER = {"format": "cca.measurements", "version": 1}


class RowLog:
    """A log with this header row that grows by chunks of ``chunk`` rows, to ``total`` rows where that is known."""

    def __init__(self, path: Path, header: Mapping[str, object], chunk: int = 1, total: int | None = None) -> None:
        self.path, self.header, self.chunk, self.total = path, dict(header), chunk, total

    def rows(self) -> list[Row]:
        """The rows of whole chunks (all of them once ``total`` are there); the rest of a torn chunk is cut off.

        Raises CcaError for a log with another header (made from other data), and for one that is damaged.
        """
        if not self.path.exists():
            return []
        data = self.path.read_bytes()
        lines = data.split(b"\n")[:-1]  # the last item is a torn line, or empty
        if lines and not self._is_header(lines[0]):
            raise CcaError(f"{self.path}: was made from other data or by another version; delete it to make it again")
        rows = sound_rows(lines[1:])
        too_many = self.total is not None and len(rows) > self.total
        if too_many or len(lines) - 1 - len(rows) > self.chunk:
            raise CcaError(f"{self.path}, line {len(rows) + 2}: is damaged; delete the file to make it again")
        kept = len(rows) if len(rows) == self.total else len(rows) // self.chunk * self.chunk
        end = sum(len(line) + 1 for line in lines[: kept + 1])
        if end < len(data):
            os.truncate(self.path, end)
        return rows[:kept]

    def append(self, rows: Sequence[Mapping[str, object]]) -> None:
        """Add one chunk, flushed to disk. When the disk is full, the file stays as it was."""
        lines = [] if self.path.exists() and self.path.stat().st_size else [json.dumps(self.header)]
        _append_lines(self.path, [*lines, *map(_sealed_line, rows)])

    def _is_header(self, line: bytes) -> bool:
        try:
            return json.loads(line) == self.header
        except (ValueError, RecursionError):
            return False


class Measurements:
    """Values by key, so that nothing is measured twice; ``done`` is called whenever one is on disk.

    Validating a step and testing a patch take most of a run's time. Each measurement (the verdicts on a chunk of
    problems, the base's answers to it, a drift) has the hash of all that decides it as its key: base model, edited
    weights, problems, judge, longest completion. A resumed run repeats its steps, which is cheap, and finds their
    validations here; a fork finds those of the run it came from.
    """

    def __init__(
        self,
        folder: Path,
        done: Callable[[], None] = lambda: None,
        file: str = MEASUREMENTS,
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


def rows_so_far(path: Path) -> tuple[list[Row], int | None]:
    """The sound rows of a log that another process may be writing, and its total by the header; changes nothing."""
    header, *lines = (path.read_bytes() if path.exists() else b"").split(b"\n")[:-1] or [b"{}"]
    try:
        total = json.loads(header).get("rows")
    except (ValueError, RecursionError, AttributeError):
        total = None
    return sound_rows(lines), total if type(total) is int else None


def sound_rows(lines: Sequence[bytes]) -> list[Row]:
    """The rows up to the first that is torn or does not have its hash."""
    rows: list[Row] = []
    for line in lines:
        row = _unsealed(line)
        if row is None:
            break
        rows.append(row)
    return rows


def _append_lines(path: Path, lines: Sequence[str]) -> None:
    data = "".join(line + "\n" for line in lines).encode("utf-8", "surrogatepass")
    with path.open("ab", buffering=0) as handle:
        before = handle.tell()
        try:
            while data:
                data = data[handle.write(data) :]
            os.fsync(handle.fileno())
        except OSError:
            os.truncate(path, before)
            raise


def _sealed_line(row: Mapping[str, object]) -> str:
    bare = json.loads(json.dumps(row))
    return json.dumps({**bare, "hash": fingerprint(bare)}, ensure_ascii=False)


def _unsealed(line: bytes) -> Row | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict):
        return None
    found = row.pop("hash", None)
    return row if found == fingerprint(row) else None
