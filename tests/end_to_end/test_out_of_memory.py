"""A run on a device too small for its batches ends with the result of one on a device that is not; a step that breaks
the model ends with the best one before it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import tiny_run
from cca.models.loading import LoadedModel, load_model
from cca.runs import open as opening
from cca.runs.config import load_config
from cca.runs.pipeline import run
from cca.runs.progress import NoProgress

pytestmark = pytest.mark.integration

ROOM = 3


def small_device(*arguments: Any) -> LoadedModel:
    """`load_model`, on a device whose first layer fits three rows."""

    def check(_: nn.Module, args: tuple[Any, ...]) -> None:
        if len(args[0]) > ROOM:
            raise torch.OutOfMemoryError(f"tried to allocate {len(args[0])} rows")

    loaded = load_model(*arguments)
    loaded.model.get_submodule("model.layers.0.mlp").register_forward_pre_hook(check)
    return loaded


@pytest.mark.parametrize("localiser", ["attribution", "dcm"])
def test_a_small_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, localiser: str) -> None:
    # A mask learned with a smaller batch is another mask, so there the unbroken run is given the batch that fits.
    circuit = {"localiser": localiser, "size": 6, "epochs": 2, "batch_size": 2}
    path = tiny_run.make(tmp_path, circuit=circuit)
    expected = run(load_config(path), NoProgress())
    monkeypatch.setattr(opening, "load_model", small_device)
    small = {**circuit, "batch_size": 4} if localiser == "dcm" else circuit
    path = tiny_run.write_config(tmp_path, circuit=small, out=str(tmp_path / "small"))
    found = run(load_config(path), NoProgress())
    same = ("base", "patched", "gain", "pivots", "templates", "share")
    assert {key: found[key] for key in same} == {key: expected[key] for key in same}
    assert found["drift"]["kl"] == pytest.approx(expected["drift"]["kl"], rel=1e-3)
    assert found["amplify"]["best_step"] == expected["amplify"]["best_step"]
    notes = "\n".join(json.loads((tmp_path / "small" / "manifest.json").read_text())["notes"])
    for what in ("generation", "amplify", "circuit"):
        assert f"{what}: " in notes
    assert found["notes"] == notes.split("\n")


def test_a_step_that_breaks_the_model(tmp_path: Path) -> None:
    amplify = {
        "steps": 3,
        "predicted_change": 1e30,
        "validate_at": [1, 3],  # else the step would be halved
        "budget": {"points": 100, "drift": 10},
    }
    found = run(load_config(tiny_run.make(tmp_path, amplify=amplify)), NoProgress())
    assert found["amplify"]["best_step"] == 0
    assert found["patched"] == found["base"]
    assert [row["step"] for row in found["amplify"]["history"]] == [0, 1]
    assert any(note.startswith("amplify: the gradient was zero at step 2") for note in found["notes"])
