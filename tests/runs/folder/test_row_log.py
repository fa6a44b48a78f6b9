"""Logs grow by whole chunks; one rule says what is cut off after a crash and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from cca.errors import CcaError
from cca.runs.folder.row_log import Measurements, RowLog

HEADER = {"format": "cca.test", "version": 1}
ROWS = [{"number": number, "text": "ä\ud800"} for number in range(9)]


def log(folder: Path, **header: object) -> RowLog:
    return RowLog(folder / "log.jsonl", {**HEADER, **header}, chunk=3, total=9)


@pytest.fixture
def full(tmp_path: Path) -> Path:
    for start in (0, 3, 6):
        log(tmp_path).append(ROWS[start : start + 3])
    assert log(tmp_path).rows() == ROWS
    return tmp_path


@pytest.mark.parametrize("torn", range(1, 170, 7))
def test_a_torn_end_is_cut_off_to_whole_chunks_and_made_again(full: Path, torn: int) -> None:
    path = full / "log.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-torn])
    rows = log(full).rows()
    assert rows == ROWS[: len(rows)]
    assert len(rows) == 6
    log(full).append(ROWS[6:])
    assert path.read_bytes() == whole


def test_a_row_that_changed_is_cut_off_in_the_last_chunk_and_refused_before(full: Path) -> None:
    path = full / "log.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'"number": 7', b'"number": 17'))
    assert log(full).rows() == ROWS[:6]
    path.write_bytes(whole.replace(b'"number": 2', b'"number": 12'))
    with pytest.raises(CcaError, match=r"line 4: is damaged; delete the file"):
        log(full).rows()
    path.write_bytes(whole)
    with pytest.raises(CcaError, match="made from other data"):
        log(full, made_from="else").rows()


def test_measurements_keep_to_the_same_rule(tmp_path: Path) -> None:
    done: list[int] = []
    kept = Measurements(tmp_path, lambda: done.append(1))
    for key in "abc":
        kept.put(key, {"of": key})
    assert len(done) == 3
    path = tmp_path / "measurements.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    again = Measurements(tmp_path)
    assert (again.get("b"), again.get("c")) == ({"of": "b"}, None)
    path.write_bytes(whole.replace(b'"of": "a"', b'"of": "x"'))
    with pytest.raises(CcaError, match="line 2: is damaged"):
        Measurements(tmp_path)
