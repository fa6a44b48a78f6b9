"""A run shows that it lives whatever it does: a file every few seconds and a line a minute."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from cca.files import read_json
from cca.runs.progress import CURRENT, LOG, LoggedProgress, NoProgress


def test_work_that_says_nothing_shows_tokens_and_time_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cca.runs.progress.EVERY", 0.02)
    monkeypatch.setattr("cca.runs.progress.LINE_EVERY", 0.1)
    shown, made, lines = NoProgress(), [0], list[str]()
    monkeypatch.setattr(shown, "alive", lines.append)
    progress = LoggedProgress(tmp_path, shown)
    progress.tokens = lambda: made[0]
    with progress.work("traces", 10) as done:
        time.sleep(0.15)
        done(2)
        made[0] = 300
        began = read_json(tmp_path / CURRENT)["updated"]
        time.sleep(0.3)
    current = read_json(tmp_path / CURRENT)
    assert (current["done"], current["total"], began <= current["updated"]) == (2, 10, True)
    assert 300 / 0.7 < current["tokens_per_second"] < 300 / 0.15
    assert current["seconds_left"] == pytest.approx(8 * current["seconds_each"], rel=0.05)
    assert any("traces: 2 of 10 done after" in line and "tokens a second, about" in line for line in lines)
    assert lines[-1] in (tmp_path / LOG).read_text()
