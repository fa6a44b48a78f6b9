"""`cca run` on two Ray actors, one of them killed on the way: the files of a run in one process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

import tiny_run
from cca.engines.ray import installed

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not installed(), reason='Ray is not installed: pip install -e ".[ray]"'),
]
FILES = ("traces.jsonl", "pivots.jsonl", "circuit.jsonl", "patch.safetensors", "evaluation.json")
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


def start(config: Path, out: Path, engine: str) -> subprocess.Popen[str]:
    program = [sys.executable, "-c", "from cca.cli import main; main()", "run", str(config)]
    options = ["--set", f"engine={engine}", "--set", f"out={out}"]
    return subprocess.Popen(
        [*program, *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=ONE_THREAD
    )


def kill_an_actor(run: subprocess.Popen[str], traces: Path) -> bool:
    """Kill -9 one actor once the first chunk is written; False when the run was quicker."""
    while run.poll() is None:
        actors = [p for p in psutil.Process(run.pid).children(recursive=True) if _name(p).startswith("ray::_Actor")]
        if traces.exists() and actors:
            actors[0].kill()
            return True
        time.sleep(0.01)
    return False


def _name(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def test_the_files_are_those_of_one_process(tmp_path: Path) -> None:
    traces = {"max_new_tokens": 40, "samples": 8, "chunk": 3, "batch_size": 2}
    config = tiny_run.make(tmp_path, traces=traces)
    one = start(config, tmp_path / "hf", "hf")
    output, _ = one.communicate(timeout=200)
    assert one.returncode == 0, output
    two = start(config, tmp_path / "ray", "ray")
    killed = kill_an_actor(two, tmp_path / "ray" / "traces.jsonl")
    output, _ = two.communicate(timeout=300)
    assert two.returncode == 0, output
    for name in FILES:
        ours, theirs = ((tmp_path / engine / name).read_bytes() for engine in ("hf", "ray"))
        assert ours == theirs, name
    assert killed
