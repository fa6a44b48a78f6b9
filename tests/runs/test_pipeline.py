"""A run goes forwards: each stage once, with the result of those before it; a finished one is read, not made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tiny_run
from cca.runs import open as opening
from cca.runs import pipeline
from cca.runs.config import load_config
from cca.runs.folder.stage_files import STAGES
from cca.runs.progress import NoProgress

MAKERS = ("run_traces", "run_pivots", "run_circuit", "run_amplify", "run_evaluate")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each stage is made, and its inputs are hashed."""
    counts: Counter[str] = Counter()

    def counted(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*args: Any, **more: Any) -> Any:
            counts[name if name != "hash_inputs" else f"hash of {args[0].name}"] += 1
            return call(*args, **more)

        return counting

    for name in MAKERS:
        monkeypatch.setattr(pipeline, name, counted(name, getattr(pipeline, name)))
    monkeypatch.setattr(opening, "hash_inputs", counted("hash_inputs", opening.hash_inputs))
    return counts


def test_an_unbroken_run_makes_and_hashes_each_stage_once(tmp_path: Path, calls: Counter[str]) -> None:
    config = load_config(tiny_run.make(tmp_path))
    pipeline.run(config, NoProgress())
    hashes = [f"hash of {stage}" for stage in STAGES]
    assert calls == dict.fromkeys((*MAKERS, *hashes), 1)
    calls.clear()
    patch = (config.out / "patch.safetensors").read_bytes()
    pipeline.run(config, NoProgress())
    assert calls == dict.fromkeys(hashes, 1), "a finished run reads every stage"
    assert (config.out / "patch.safetensors").read_bytes() == patch


def test_a_stage_command_runs_what_is_pending_up_to_it(tmp_path: Path, calls: Counter[str]) -> None:
    config = load_config(tiny_run.make(tmp_path))
    pipeline.run_stage(config, "pivots", NoProgress())
    assert [name for name in MAKERS if calls[name]] == ["run_traces", "run_pivots"]
    calls.clear()
    pipeline.run_stage(config, "circuit", NoProgress())
    assert [name for name in MAKERS if calls[name]] == ["run_circuit"]
    assert not (config.out / "patch.safetensors").exists()
    pipeline.run_stage(config, "amplify", NoProgress())
    patch = (config.out / "patch.safetensors").read_bytes()
    pipeline.run(config, NoProgress())
    assert (config.out / "patch.safetensors").read_bytes() == patch, "the report leaves it as amplify wrote it"
