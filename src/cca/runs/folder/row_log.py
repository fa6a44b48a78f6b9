"""Logs that grow while a stage runs, appended to and flushed to disk chunk by chunk.

Every row carries the hash of its content. What a kill or a power cut left of the last chunk (a torn line, a row that
does not have its hash) is cut off and owed again; damage further up is refused, since a crash cannot have done it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from cca.errors import CcaError
from cca.files import Row, fingerprint


class ChunkLog:
    """A JSONL file that grows by chunks of ``chunk`` rows to ``total``; the header row says what it was made from."""

    def __init__(self, path: Path, format: str, version: int, made_from: str, chunk: int, total: int) -> None:
        self.path, self.chunk, self.total = path, chunk, total
        self.header = {"format": format, "version": version, "made_from": made_from, "rows": total}

    def rows(self) -> list[Row]:
        """The rows of whole chunks (all of them once ``total`` are there); what is left of a torn chunk is cut off.

        Raises CcaError for a log made from something else, and for one that is damaged.
        """
        if not self.path.exists():
            return []
        data = self.path.read_bytes()
        lines = data.split(b"\n")[:-1]  # what follows the last line break is a torn line, or nothing
        if lines and not self._is_header(lines[0]):
            raise CcaError(
                f"{self.path}: was made from other data or by another version; delete it to make it again"
            )
        rows = _sound_rows(lines[1:])
        if len(rows) > self.total or len(lines) - 1 - len(rows) > self.chunk:
            raise CcaError(f"{self.path}, line {len(rows) + 2}: is damaged; delete the file to make it again")
        kept = len(rows) if len(rows) == self.total else len(rows) // self.chunk * self.chunk
        end = sum(len(line) + 1 for line in lines[: kept + 1])
        if end < len(data):
            os.truncate(self.path, end)
        return rows[:kept]

    def append(self, rows: Sequence[Mapping[str, object]]) -> None:
        """Add one chunk, flushed to disk. A chunk that does not fit on the disk leaves nothing behind."""
        lines = [] if self.path.exists() and self.path.stat().st_size else [json.dumps(self.header)]
        append_lines(self.path, [*lines, *map(sealed_line, rows)])

    def _is_header(self, line: bytes) -> bool:
        try:
            return json.loads(line) == self.header
        except (ValueError, RecursionError):
            return False


def rows_so_far(path: Path) -> tuple[list[Row], int | None]:
    """The sound rows of a log that another process may be writing, and how many it is to have; it is left as it is."""
    header, *lines = (path.read_bytes() if path.exists() else b"").split(b"\n")[:-1] or [b"{}"]
    try:
        total = json.loads(header).get("rows")
    except (ValueError, RecursionError, AttributeError):
        total = None
    return _sound_rows(lines), total if type(total) is int else None


def append_lines(path: Path, lines: Sequence[str]) -> None:
    """Append whole lines and flush them to disk; on failure the file is as it was."""
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


def sealed_line(row: Mapping[str, object]) -> str:
    """A row as a line of JSON, with the hash of its content beside it."""
    bare = json.loads(json.dumps(row))
    return json.dumps({**bare, "hash": fingerprint(bare)}, ensure_ascii=False)


def unsealed(line: bytes) -> Row | None:
    """The row of a line made by `sealed_line`; None where it is torn or does not have its hash."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict):
        return None
    found = row.pop("hash", None)
    return row if found == fingerprint(row) else None


def _sound_rows(lines: Sequence[bytes]) -> list[Row]:
    """The rows up to the first that is not sound."""
    rows: list[Row] = []
    for line in lines:
        row = unsealed(line)
        if row is None:
            break
        rows.append(row)
    return rows
