"""`cca plan` does the first chunk of a run, and the run resumes from it as if nobody had planned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import tiny_run
from cca.cli.runs import plan as plan_command
from cca.files import read_json
from cca.runs import pipeline
from cca.runs.config import load_config
from cca.runs.folder.row_log import rows_so_far
from cca.runs.plan import make_plan
from cca.runs.progress import NoProgress
from cca.runs.stages.circuit import run_circuit

pytestmark = pytest.mark.integration

FILES = ("traces.jsonl", "pivots.jsonl", "circuit.jsonl", "amplify.json", "evaluation.json", "patch.safetensors")


def outcome(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in FILES}


@pytest.mark.parametrize("chunk", [12, 4], ids=["one chunk", "three chunks"])
@pytest.mark.parametrize("localiser", ["selective", "dcm"])
def test_a_run_resumes_from_its_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, localiser: str
) -> None:
    traces = {"max_new_tokens": 5, "samples": 4, "chunk": chunk, "batch_size": 8}
    circuit = {"localiser": localiser, "size": 6, "epochs": 2, "penalty": 0.001}
    path = tiny_run.make(tmp_path, traces=traces, circuit=circuit)
    whole, planned = (load_config(path, [f"out={tmp_path / name}"]) for name in ("whole", "planned"))
    pipeline.run(whole, NoProgress())
    stages = make_plan(planned, NoProgress())
    assert list(stages) == ["traces", "pivots", "circuit", "amplify", "evaluate"]
    assert (stages["traces"]["done"], stages["traces"]["left"]) == (chunk, 12 - chunk)
    seconds = stages["traces"]["seconds_left"]
    assert seconds == pytest.approx((12 - chunk) * stages["traces"]["seconds_each"])
    assert stages["amplify"]["left"] is None
    assert all(row["seconds_each"] > 0 and row["peak_cpu_bytes"] > 0 for row in stages.values())
    assert len(rows_so_far(planned.out / "traces.jsonl")[0]) == chunk
    kept = (planned.out / "amplify.partial.safetensors").exists()
    assert kept == (planned.out / "circuit.jsonl").exists() == (chunk == 12)
    made: list[str] = []

    def counting(*args: Any, **more: Any) -> None:
        made.append("circuit")
        run_circuit(*args, **more)

    monkeypatch.setattr(pipeline, "run_circuit", counting)
    pipeline.run(planned, NoProgress())
    assert outcome(planned.out) == outcome(whole.out)
    assert made == ([] if chunk == 12 else ["circuit"])
    tokens = [read_json(folder.out / "timing.json")["traces"]["tokens"] for folder in (planned, whole)]
    assert tokens[0] == tokens[1], "no trace is sampled twice"


def test_the_command_says_what_is_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tiny_run.make(tmp_path)
    plan_command(path, None)
    said = capsys.readouterr().out
    assert "8 left: about" in said
    assert "tokens per step over" in said
    assert "at most 3 steps" in said
    assert "The number of steps is not known" in said


def test_a_judge_that_nothing_satisfies_is_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan_command(tiny_run.make(tmp_path, judge={"name": "regex", "pattern": "nothing"}), None)
    assert "there may be nothing to pair" in capsys.readouterr().out
