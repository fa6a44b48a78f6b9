"""Files appear whole and stay, through a power cut as well."""

from __future__ import annotations

from pathlib import Path

import pytest

from cca.files import write_bytes
from disk_calls import recorded


def test_content_is_on_disk_before_its_name_and_the_name_before_the_call_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = recorded(monkeypatch)
    write_bytes(tmp_path / "file", b"content")
    (flushed, temporary), *rest = calls
    assert flushed == "fsync"
    assert temporary.startswith(".file.")
    assert rest == [("replace", "file"), ("fsync", tmp_path.name)]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
