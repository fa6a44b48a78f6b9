"""A run by two processes (gloo): the results of one, whichever of them stops or fails."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import tiny_run
from cca.patches.patch import Patch
from cca.patches.patch_file import load_patch
from forge import Forge

pytestmark = pytest.mark.integration

CIRCUITS = {
    "natural": {"size": "6% of parameters"},
    "selective": {"localiser": "selective", "size": 6},
    "attribution": {"localiser": "attribution", "size": 6},
    "dcm": {"localiser": "dcm", "epochs": 8, "learning_rate": 0.1, "penalty": 0.05, "batch_size": 3},
}

STEPS = {
    "natural": {"predicted_change": 3.0},
    "selective": {"whitening": "none"},
    "attribution": {"whitening": "none"},
    "dcm": {"predicted_change": 3.0},
}
"""Settings with which some step helps the tiny model. Whitened sums are in float32, so their rounding shows more."""


@pytest.fixture(scope="module")
def forge() -> Iterator[Forge]:
    with Forge() as forge:
        yield forge


@pytest.fixture(scope="module", params=CIRCUITS)
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, forge: Forge) -> Path:
    """A folder with model, problems and a run by one process in ``out``."""
    folder = tmp_path_factory.mktemp("world")
    amplify = {"steps": 4, "predicted_change": 1.0, "batch_size": 2, "budget": {"points": 100, "drift": 10}}
    amplify |= STEPS[request.param]
    config = tiny_run.make(folder, circuit=CIRCUITS[request.param], amplify=amplify)
    code, output = forge.cca("run", config)
    assert code == 0, output
    header = json.loads((folder / "out" / "circuit.jsonl").read_text().partition("\n")[0])
    assert header["method"].startswith(request.param)
    assert load_patch(folder / "out" / "patch.safetensors").edits
    return folder


DEFAULT = pytest.mark.parametrize("world", ["natural"], indirect=True)


def two(forge: Forge, folder: Path, *more: str, **request: object) -> list[tuple[int, str]]:
    """Exit codes and outputs of two processes that run the world's configuration in ``folder``."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = ["run", folder.parent / "run.yaml", "--set", f"out={folder}", *more]
    return forge.ask(arguments, children=2, port=port, **request)


def assert_same(world: Path, folder: Path) -> None:
    for name in ("traces.jsonl", "pivots.jsonl"):
        assert (folder / name).read_bytes() == (world / "out" / name).read_bytes()
    expected, found = (components(place / "circuit.jsonl") for place in (world / "out", folder))
    assert [name for name, _ in found] == [name for name, _ in expected]
    assert [score for _, score in found] == pytest.approx([score for _, score in expected], rel=1e-3)
    expected, found = (steps(place / "amplify.json") for place in (world / "out", folder))
    plain = json.loads((folder / "report.json").read_text())["config"]["amplify"]["whitening"] == "none"
    assert found == pytest.approx(expected, rel=1e-4 if plain else 1e-2)
    patches = [load_patch(place / "patch.safetensors") for place in (world / "out", folder)]
    assert_close(*patches, within=1e-4 if plain else 1e-2)
    reports = [json.loads((place / "report.json").read_text()) for place in (world / "out", folder)]
    for key in ("base", "patched", "gain"):
        assert reports[1][key] == reports[0][key]
    for key in ("base", "patched"):
        assert reports[1]["retention"]["other"][key] == reports[0]["retention"]["other"][key]
    assert reports[1]["drift"]["kl"] == pytest.approx(reports[0]["drift"]["kl"], rel=1e-3)


def components(path: Path) -> list[tuple[str, float]]:
    rows = [json.loads(line) for line in path.read_text().splitlines()[1:]]
    return sorted((str(row.get("component", row)), row.get("score") or 0.0) for row in rows)


def steps(path: Path) -> list[float]:
    """Objective and logit gap of every step."""
    history = json.loads(path.read_text())["history"][1:]
    return [number for step in history for number in (step["objective"], step["logit_gap"])]


def assert_close(expected: Patch, found: Patch, within: float) -> None:
    """The same rows, and what was added to them equal within this share of the largest."""
    assert len(expected.edits) == len(found.edits)
    for a, b in zip(expected.edits, found.edits, strict=True):
        assert (a.parameter, a.axis) == (b.parameter, b.axis)
        assert torch.equal(a.indices, b.indices)
        assert torch.equal(a.before, b.before)
        difference = float((a.after - b.after).abs().max())
        assert difference <= within * float((a.after - a.before).abs().max())


def test_two_processes_find_what_one_does(world: Path, forge: Forge) -> None:
    folder = world / "two"
    (code, talk), (other, silence) = two(forge, folder)
    assert (code, other) == (0, 0), talk + silence
    assert "report.html" in talk
    assert "report.html" not in silence
    assert_same(world, folder)


def test_weights_spread_over_two_processes(world: Path, forge: Forge) -> None:
    folder = world / "sharded"
    answers = two(forge, folder, "--set", "sharding=fsdp")
    assert [code for code, _ in answers] == [0, 0], answers
    assert_same(world, folder)


@DEFAULT
def test_stopped_at_two_goes_on_at_one_and_at_two(world: Path, forge: Forge) -> None:
    folder = world / "stopped"
    answers = two(forge, folder, signals=[[f"{folder}/traces.jsonl", signal.SIGTERM]])
    assert [code for code, _ in answers] == [143, 143], answers
    assert [output.count("the same command goes on") for _, output in answers] == [1, 0]
    assert not (folder / "circuit.jsonl").exists()
    code, output = forge.cca("run", world / "run.yaml", "--set", f"out={folder}", "--set", "amplify.steps=9")
    assert code == 2
    for name in ("circuit.jsonl", "amplify.partial.safetensors"):
        answers = two(forge, folder, signals=[[f"{folder}/{name}", signal.SIGTERM]])
        assert [code for code, _ in answers] == [143, 143], answers
    assert not (folder / "amplify.json").exists()
    code, output = forge.cca("run", world / "run.yaml", "--set", f"out={folder}")
    assert code == 0, output
    assert_same(world, folder)


@pytest.mark.parametrize("world", ["dcm"], indirect=True)
def test_a_mask_stopped_at_two_goes_on_at_one(world: Path, forge: Forge) -> None:
    folder = world / "masked"
    answers = two(forge, folder, signals=[[f"{folder}/mask.partial.safetensors", signal.SIGTERM]])
    assert [code for code, _ in answers] == [143, 143], answers
    assert not (folder / "amplify.json").exists()
    code, output = forge.cca("run", world / "run.yaml", "--set", f"out={folder}")
    assert code == 0, output
    assert_same(world, folder)


@DEFAULT
@pytest.mark.parametrize("override", ["amplify.predicted_change=null", "device_map=cpu"])
def test_one_line_ends_all(world: Path, forge: Forge, override: str) -> None:
    answers = two(forge, world / "refused", "--set", override)
    assert [code for code, _ in answers] == [2, 2]
    outputs = "".join(output for _, output in answers)
    assert outputs.count("error:") == 1, outputs
    assert override.split("=")[0].removeprefix("amplify.") in outputs
