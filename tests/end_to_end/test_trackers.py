"""The numbers of a run as curves, by trackers that write without a network; and the log in the run folder."""

from __future__ import annotations

from pathlib import Path

import pytest

import tiny_run
from cca.errors import CcaError
from cca.runs.config import load_config
from cca.runs.pipeline import run
from cca.runs.progress import NoProgress

pytestmark = pytest.mark.integration


def test_tensorboard_has_the_steps(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    path = tiny_run.make(tmp_path, trackers=["tensorboard"])
    report = run(load_config(path), NoProgress())
    events = EventAccumulator(str(tmp_path / "out" / "trackers" / "cca"))
    events.Reload()
    curve = events.Scalars("amplify/validation/accuracy")
    history = report["amplify"]["history"]
    assert [(point.step, point.value) for point in curve] == [
        (row["step"], pytest.approx(row["validation"]["accuracy"])) for row in history
    ]
    assert events.Scalars("test/patched/accuracy")[0].value == pytest.approx(report["patched"]["accuracy"])
    # Without the tracker it is the same run: it goes on, and finds everything done.
    assert run(load_config(path, ["trackers=[]"]), NoProgress())["fingerprint"] == report["fingerprint"]


def test_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    run(load_config(tiny_run.make(tmp_path, trackers=["wandb"])), NoProgress())
    assert list((tmp_path / "out" / "trackers").rglob("*.wandb"))


def test_a_tracker_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CcaError, match="got 'tensorbord'; pip install tensorbord"):
        run(load_config(tiny_run.make(tmp_path, trackers=["tensorbord"])), NoProgress())


def test_the_log_tells_the_run(tmp_path: Path) -> None:
    run(load_config(tiny_run.make(tmp_path)), NoProgress())
    lines = (tmp_path / "out" / "run.log").read_text().splitlines()
    for text in (
        "traces: greedy and sampled (12) ...",
        "pivots: ",
        "amplify: steps on",
        "evaluate: base and patched: ",
    ):
        assert any(text in line for line in lines), text
    assert all(line[:2] == "20" for line in lines)
