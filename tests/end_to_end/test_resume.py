"""Whatever stops a run, the same command goes on, and the result is that of a run nothing stopped."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import tiny_run
from cca.runs.folder.run_folder import RunFolder
from forge import CRASHED, Forge
from tiny_run import outcome

pytestmark = pytest.mark.integration

DEAD = -int(signal.SIGKILL)


@pytest.fixture(scope="module")
def forge() -> Iterator[Forge]:
    with Forge() as forge:
        yield forge


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, forge: Forge) -> Path:
    """A folder with model, problems and an unbroken run in ``out``."""
    folder = tmp_path_factory.mktemp("world")
    code, output = forge.cca("run", tiny_run.make(folder))
    assert code == 0, output
    return folder


def to(folder: Path) -> list[str | Path]:
    """The command that runs the world's configuration in ``folder``."""
    return ["run", folder.parent / "run.yaml", "--set", f"out={folder}"]


def assert_same(world: Path, folder: Path) -> None:
    expected, found = outcome(world / "out"), outcome(folder)
    assert found == expected
    left = [name for entry in folder.iterdir() if (name := entry.name).count(".") > 2 or "partial" in name]
    assert not left, "leftovers of a crash, or of a stage that is done"


def test_the_run_does_something(world: Path) -> None:
    report = outcome(world / "out")["report"]
    assert report["amplify"]["best_step"] > 0
    assert report["pivots"]["count"] > 3
    assert 0 < report["base"]["accuracy"] < 1


def test_killed_at_every_write_in_turn(world: Path, forge: Forge) -> None:
    folder, had = world / "crashed", world / "crashes"
    for _ in range(200):
        code, output = forge.cca(*to(folder), crashes=str(had))
        if code != CRASHED:
            break
    assert code == 0, output
    assert_same(world, folder)
    points = had.read_text().splitlines()
    assert len(points) > 40
    for name in ("traces.jsonl", "pivots.partial.jsonl", "measurements.jsonl"):
        assert f"append torn {name}" in points
    for name in (
        "manifest.json",
        "pivots.jsonl",
        "amplify.partial.safetensors",
        "amplify.json",
        "patch.safetensors",
        "control.partial.safetensors",
        "evaluation.json",
        "report.json",
    ):
        assert {f"flush {name}", f"before rename {name}", f"renamed {name}"} <= set(points)


@pytest.mark.parametrize("relaxation", ["clamp", "hard-concrete"])
def test_a_mask_killed_at_every_write_goes_on_from_its_last_epoch(relaxation: str, world: Path, forge: Forge) -> None:
    circuit = {"localiser": "dcm", "relaxation": relaxation, "epochs": 3, "batch_size": 4, "penalty": 0.001}
    config, whole, folder, had = (world / f"{relaxation}{end}" for end in (".yaml", "-whole", "", "-crashes"))
    tiny_run.write_config(world, relaxation, circuit=circuit)
    for stage in ("traces", "pivots"):  # the same for both
        assert forge.cca(stage, config, "--set", f"out={whole}")[0] == 0
    shutil.copytree(whole, folder)
    code, output = forge.cca("circuit", config, "--set", f"out={whole}")
    assert code == 0, output
    forked = world / f"{relaxation}-forked"
    for _ in range(30):
        code, output = forge.cca("circuit", config, "--set", f"out={folder}", crashes=str(had))
        if code != CRASHED:
            break
        if (folder / "mask.partial.safetensors").exists() and not forked.exists():
            again, told = forge.cca("run", config, "--set", f"out={folder}", "--fork", forked)
            assert again == 0, told
            assert (forked / "circuit.jsonl").read_bytes() == (whole / "circuit.jsonl").read_bytes()
    assert code == 0, output
    assert forked.exists()
    assert (folder / "circuit.jsonl").read_bytes() == (whole / "circuit.jsonl").read_bytes()
    assert {"flush mask.partial.safetensors", "renamed mask.partial.safetensors"} <= set(had.read_text().splitlines())
    assert not (folder / "mask.partial.safetensors").exists()


def test_killed_at_random_moments(world: Path, forge: Forge) -> None:
    folder, moments = world / "killed", random.Random(0)
    latest, deaths = 0.8, 0
    for _ in range(80):
        code, output = forge.cca(*to(folder), signals=[[moments.uniform(0.02, latest), signal.SIGKILL]])
        deaths += code == DEAD
        if deaths == 10:
            break
        if code != DEAD:  # it outran the kill, as it does on a fast machine: begin again and kill earlier
            assert code == 0, output
            shutil.rmtree(folder)
            latest *= 0.7
    assert deaths == 10
    code, output = forge.cca(*to(folder))
    assert code == 0, output
    assert_same(world, folder)


def test_ctrl_c_once_finishes_the_chunk(world: Path, forge: Forge) -> None:
    folder = world / "stopped"
    code, output = forge.cca(*to(folder), signals=[[f"{folder}/traces.jsonl", signal.SIGINT]])
    assert code == 130
    assert "stopping after this chunk" in output
    assert "the same command goes on" in output.splitlines()[-1]
    assert not (folder / "evaluation.json").exists()
    code, output = forge.cca(*to(folder), signals=[[f"{folder}/circuit.jsonl", signal.SIGTERM]])
    assert code == 143
    assert forge.cca(*to(folder))[0] == 0
    assert_same(world, folder)


def test_ctrl_c_twice_stops_now(world: Path, forge: Forge) -> None:
    folder = world / "stopped_now"
    code, output = forge.cca(*to(folder), signals=[[f"{folder}/traces.jsonl", signal.SIGINT], [0, signal.SIGINT]])
    assert code == 130
    assert "the same command goes on" in output.splitlines()[-1]
    assert forge.cca(*to(folder))[0] == 0
    assert_same(world, folder)


def test_status_and_page_of_a_run_under_way(world: Path, forge: Forge) -> None:
    folder = world / "partial"
    assert forge.cca(*to(folder), signals=[[f"{folder}/pivots.jsonl", signal.SIGKILL]])[0] == DEAD
    before = {entry.name: entry.read_bytes() for entry in folder.iterdir()}
    code, output = forge.cca("status", folder, "--json")
    assert code == 0, output
    status = json.loads(output)
    assert "was killed" in status["state"]
    assert [stage["state"] for stage in status["stages"].values()][:2] == ["done", "done"]
    assert status["stages"]["evaluate"] == {"state": "pending", "seconds": 0}
    assert status["stages"]["traces"]["problems"] == tiny_run.SIZES["train"]
    assert 0 < status["stages"]["traces"]["greedy_accuracy"] < 1
    assert {entry.name: entry.read_bytes() for entry in folder.iterdir()} == before
    with RunFolder(folder):
        code, output = forge.cca("status", folder)
        assert code == 0, output
        assert f"running: process {os.getpid()} on " in output
        code, output = forge.cca("report", folder)
    assert code == 0, output
    assert "stages done so far" in output
    assert (folder / "report.html").exists()
    assert not (folder / "report.json").exists()
    assert "finished" in forge.cca("status", world / "out")[1]


def test_a_second_process_is_refused_and_the_first_unharmed(world: Path, forge: Forge) -> None:
    folder = world / "twice"
    answers = forge.ask(to(folder), children=2)
    assert sorted(code for code, _ in answers) == [0, 2]
    (refusal,) = (output for code, output in answers if code == 2)
    assert refusal.count("\n") == 1
    assert "in use by" in refusal
    assert_same(world, folder)
    with RunFolder(folder):
        code, refusal = forge.cca(*to(folder))
    assert code == 2
    assert f"in use by process {os.getpid()} on " in refusal
    assert_same(world, folder)


def test_a_fork_reuses_what_is_still_valid(world: Path, forge: Forge) -> None:
    folder, fresh = world / "fork", world / "fresh"
    changed = ["--set", "amplify.steps=2", "--set", "traces.batch_size=4"]
    code, output = forge.cca("run", world / "run.yaml", *changed)
    assert code == 2
    assert "amplify.steps, traces.batch_size" in output
    assert "--fork NEW_DIR" in output
    code, output = forge.cca("run", world / "run.yaml", *changed, "--fork", folder)
    assert code == 0, output
    assert "traces, pivots, circuit\n" in output
    assert "traces" not in json.loads((folder / "timing.json").read_text())
    assert forge.cca(*to(fresh), *changed)[0] == 0
    forked, afresh = outcome(folder)["report"], outcome(fresh)["report"]
    assert forked.pop("forked_from") == str(world / "out")
    assert forked == afresh


needs_mount = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")


@pytest.fixture
def small_disk(tmp_path: Path, world: Path) -> Iterator[Path]:
    """A disk of 48 KB, full long before a run is done."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", tmp_path], capture_output=True)
    if mounted.returncode:
        pytest.skip("this container does not let root mount")
    shutil.copy(world / "run.yaml", tmp_path)
    yield tmp_path
    subprocess.run(["umount", "-l", tmp_path], check=True)


def remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", disk], check=True)


@needs_mount
def test_full_disk(small_disk: Path, world: Path, forge: Forge) -> None:
    folder = small_disk / "out"
    for _ in range(2):
        code, output = forge.cca(*to(folder))
        assert code == 2
        assert "No space left on device; make room" in output.splitlines()[-1]
        assert "Traceback" not in output
    remount(small_disk, "size=4m")
    code, output = forge.cca(*to(folder))
    assert code == 0, output
    assert_same(world, folder)


@needs_mount
def test_read_only_folder(small_disk: Path, world: Path, forge: Forge) -> None:
    folder = small_disk / "out"
    remount(small_disk, "size=4m")
    assert forge.cca(*to(folder), signals=[[f"{folder}/traces.jsonl", signal.SIGKILL]])[0] == DEAD
    remount(small_disk, "ro")
    code, output = forge.cca(*to(folder))
    assert code == 2
    assert output.count("\n") == 1
    assert "cannot be written to (Read-only file system)" in output
    remount(small_disk, "rw")
    code, output = forge.cca(*to(folder))
    assert code == 0, output
    assert_same(world, folder)
