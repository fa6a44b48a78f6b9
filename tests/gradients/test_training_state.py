"""A training's state in the run folder: given back to the bit, or, once damaged, not at all."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from cca.gradients import training_state
from cca.gradients.training_state import TrainingFile, TrainingState

STATE = TrainingState(
    {
        "rows": torch.randn(3, 5, generator=torch.Generator().manual_seed(0)),
        "half": torch.tensor([1.5, -0.0], dtype=torch.bfloat16),
        "columns": torch.arange(12).view(3, 4).T,
        "step": torch.tensor(7.0),
        "generator": torch.Generator().get_state(),
    },
    {"coefficient": 0.1 + 0.2, "drift": math.inf, "best": None, "history": [{"text": "ü 🙂"}]},
)


def kept(folder: Path, made_from: str = "these rows") -> TrainingFile:
    return TrainingFile(folder / "state", made_from)


def same(found: TrainingState | None) -> bool:
    return (
        found is not None
        and found.facts == STATE.facts
        and found.tensors.keys() == STATE.tensors.keys()
        and all(torch.equal(found.tensors[name], own) for name, own in STATE.tensors.items())
    )


def test_what_is_kept_is_given_back(tmp_path: Path) -> None:
    told = []
    file = TrainingFile(tmp_path / "state", "these rows", lambda: told.append(kept(tmp_path).load()))
    assert file.load() is None
    file.save(STATE)
    assert same(told[0]), "told once it is on disk"
    file.save(TrainingState({}, {"later": True}))
    later = file.load()
    assert later is not None
    assert later.facts == {"later": True}


def test_what_is_of_another_training_or_damaged_is_not_taken(tmp_path: Path) -> None:
    kept(tmp_path).save(STATE)
    path = tmp_path / "state"
    whole = path.read_bytes()
    assert kept(tmp_path, "other rows").load() is None
    assert kept(tmp_path).part(8).load() is None
    kept(tmp_path).part(8).save(STATE)
    assert same(kept(tmp_path).part(8).load())
    kept(tmp_path).save(STATE)
    for place in range(len(whole)):
        bit = 1 << place % 8
        path.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
        found = kept(tmp_path).load()
        assert found is None or same(found), "a bit that counts for nothing, such as of a space in the header"
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        assert kept(tmp_path).load() is None


def test_a_state_as_large_as_a_model_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_state, "LARGEST", 100)
    kept(tmp_path).save(STATE)
    assert not (tmp_path / "state").exists()
