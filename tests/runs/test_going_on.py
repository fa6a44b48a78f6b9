"""What a run that goes on, or a fork, takes over: all that is still what it would make, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import tiny_run
from cca.runs.config import load_config
from cca.runs.folder.stage_files import STAGES, hash_inputs
from cca.runs.open import open_run
from cca.runs.pipeline import run_stage
from cca.runs.progress import NoProgress

INPUTS = {
    "model": {"traces"},
    "tokenizer": {"traces"},
    "train": {"traces"},
    "judging": {"traces"},
    "max_new_tokens": {"traces"},
    "anatomy": {"circuit", "amplify"},
    "circuit_file": {"circuit"},
    "validation": {"amplify"},
    "retention": {"circuit", "amplify"},
    "test": {"evaluate"},
}
"""Each part of the data, and the stages that read it themselves; those after them depend on their files."""


class Telling(NoProgress):
    def __init__(self) -> None:
        self.said = ""

    def say(self, text: str) -> None:
        self.said += f"{text}\n"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run whose stages are done."""
    folder = tmp_path_factory.mktemp("world")
    run_stage(load_config(tiny_run.make(folder)), "evaluate", NoProgress())
    return folder


def test_traces_go_on_after_the_last_whole_chunk(world: Path, tmp_path: Path) -> None:
    whole = (world / "out" / "traces.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    assert len(lines) == 1 + tiny_run.SIZES["train"]
    config = load_config(world / "run.yaml", [f"out={tmp_path / 'out'}"])
    run_stage(config, "traces", NoProgress())
    for left in (lines[:5], [*lines[:7], lines[7][:-9]], lines[:1]):  # one of three chunks, a torn one, none
        (tmp_path / "out" / "traces.jsonl").write_bytes(b"".join(left))
        run_stage(config, "traces", NoProgress())
        assert (tmp_path / "out" / "traces.jsonl").read_bytes() == whole


@pytest.mark.parametrize(
    ("file", "taken"), [("other", "traces, pivots"), ("train", "no stage"), ("test", "circuit, amplify")]
)
def test_a_fork_takes_over_what_does_not_depend_on_the_data_that_changed(
    file: str, taken: str, world: Path, tmp_path: Path
) -> None:
    changed = tmp_path / f"{file}.jsonl"  # one prompt differs
    first, *rows = (world / f"{file}.jsonl").read_text().splitlines()
    row = json.loads(first)
    changed.write_text("\n".join([json.dumps({**row, "prompt": f"{row['prompt']} w7"}), *rows]) + "\n")
    key = "retention" if file == "other" else f"task.{file}"
    value = f"[{changed}]" if file == "other" else changed
    config = load_config(world / "run.yaml", [f"{key}={value}", f"out={tmp_path / 'fork'}"])
    progress = Telling()
    with open_run(config, progress, world / "out"):
        pass
    assert f"taken over from {world / 'out'}: " in progress.said
    assert taken in progress.said.partition("taken over")[2].splitlines()[0]
    assert (tmp_path / "fork" / "circuit.jsonl").exists() == (file == "test")


@pytest.mark.parametrize("name", INPUTS)
def test_a_stage_depends_on_the_data_it_reads(name: str, world: Path) -> None:
    config, folder = load_config(world / "run.yaml"), world / "out"
    before = dict.fromkeys(INPUTS, "as it was")
    differ = set()
    for stage in STAGES.values():
        changed = hash_inputs(stage, config, {**before, name: "changed"}, folder)
        if changed != hash_inputs(stage, config, before, folder):
            differ.add(stage.name)
    assert differ == INPUTS[name]
