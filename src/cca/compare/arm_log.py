"""The finished arms of a comparison, one JSONL row each, appended and flushed: what a kill leaves is owed again."""

from __future__ import annotations

import json
import os
from pathlib import Path

from cca.errors import CcaError
from cca.files import Row, check_version

FORMAT, VERSION = "cca.arms", 1


class ArmLog:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows = self._read()

    def get(self, key: str) -> Row | None:
        return self._rows.get(key)

    def append(self, row: Row) -> None:
        """Add the row of an arm under its ``key``."""
        lines = [] if self.path.exists() else [{"format": FORMAT, "version": VERSION}]
        text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in (*lines, row))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab", buffering=0) as handle:
            handle.write(text.encode())
            os.fsync(handle.fileno())
        self._rows[row["key"]] = row

    def _read(self) -> dict[str, Row]:
        """The rows by their keys; a torn last line is cut off. Raises CcaError for any other damage."""
        if not self.path.exists():
            return {}
        data = self.path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            os.truncate(self.path, whole)
        rows: list[Row] = []
        for number, line in enumerate(data[:whole].splitlines(), start=1):
            try:
                rows.append(json.loads(line))
            except (ValueError, RecursionError) as error:
                raise CcaError(f"{self.path}, line {number}: expected a JSON object, got {error}") from error
        if not rows:
            self.path.unlink()
            return {}
        if not isinstance(rows[0], dict) or rows[0].get("format") != FORMAT:
            raise CcaError(
                f"{self.path}: expected a {FORMAT} file (its first line says so), got something else"
            )
        check_version(str(self.path), rows[0].get("version"), VERSION)
        for number, row in enumerate(rows[1:], start=2):
            if not isinstance(row, dict) or not isinstance(row.get("key"), str):
                raise CcaError(f"{self.path}, line {number}: expected the row of an arm, got {row!r:.80}")
        return {row["key"]: row for row in rows[1:]}
