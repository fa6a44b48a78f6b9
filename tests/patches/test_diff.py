"""Patches out of two checkpoints: exact, small along the better axis, refused where they could not be."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from toy import PLACES, SHAPES, patched, read_folder, same, toy_patch, toy_weights, write_folder

from cca.errors import CcaError
from cca.patches import diff as diff_module
from cca.patches import stored_rows
from cca.patches.apply import write_copy
from cca.patches.diff import diff


@pytest.fixture(autouse=True)
def generous(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diff_module, "LARGEST", 10)


@pytest.mark.parametrize("block", [8 << 20, 48])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_diff_turns_one_checkpoint_into_the_other(
    tmp_path: Path, dtype: torch.dtype, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_rows, "BLOCK", block)
    weights = toy_weights(dtype)
    base, edited = (write_folder(tmp_path / "base", weights), write_folder(tmp_path / "edited", patched(weights)))
    patch = diff(base, edited, "toy", "v1")
    write_copy(base, patch, tmp_path / "again")
    assert same(read_folder(tmp_path / "again"), patched(weights))
    made = toy_patch(weights)
    assert patch.base_hashes == made.base_hashes
    for name in ("rows", "columns", "bias", "experts", "other_experts"):  # and so along the axis they were edited
        assert next(e for e in patch.edits if e.parameter == name) == next(e for e in made.edits if e.parameter == name)


def test_a_single_weight_is_a_patch_of_its_shorter_line(tmp_path: Path) -> None:
    weights = toy_weights()
    edited = {name: tensor.clone() for name, tensor in weights.items()}
    edited["rows"][4, 2] = -0.0
    edited["other_experts"][1, 3, 2] += 1
    patch = diff(write_folder(tmp_path / "a", weights), write_folder(tmp_path / "b", edited), "toy")
    found = {edit.parameter: (edit.axis, edit.indices.tolist(), tuple(edit.after.shape)) for edit in patch.edits}
    assert found == {"rows": (0, [4], (1, 6)), "other_experts": (1, [1 * 5 + 3], (1, 4))}


def test_equal_checkpoints_give_an_empty_patch(tmp_path: Path) -> None:
    folders = [write_folder(tmp_path / name, toy_weights()) for name in "ab"]
    assert diff(*folders, "toy").edits == ()


def test_checkpoints_of_different_models_are_refused_by_name(tmp_path: Path) -> None:
    base = write_folder(tmp_path / "base", toy_weights())
    fewer = {name: tensor for name, tensor in toy_weights().items() if name != "experts"}
    with pytest.raises(CcaError, match=r"^experts: only in .*base; expected two checkpoints of one model"):
        diff(base, write_folder(tmp_path / "fewer", fewer), "toy")
    other = {**toy_weights(), "rows": torch.zeros(6, 9)}
    with pytest.raises(CcaError, match=r"^rows: expected one shape and dtype in both, got \[9, 6\] F32 and \[6, 9\]"):
        diff(base, write_folder(tmp_path / "other", other), "toy")
    with pytest.raises(CcaError, match=r"^bias: expected one shape and dtype in both"):
        diff(base, write_folder(tmp_path / "half", toy_weights(torch.bfloat16)), "toy")


def test_a_large_edit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diff_module, "LARGEST", 0.25)
    weights = toy_weights()
    everything = {name: tensor + 1 for name, tensor in weights.items()}
    with pytest.raises(CcaError, match="over 25% of the checkpoint; ship the checkpoint instead"):
        diff(write_folder(tmp_path / "a", weights), write_folder(tmp_path / "b", everything), "toy")


def test_integers_that_differ_are_refused(tmp_path: Path) -> None:
    weights = {**toy_weights(), "untouched": torch.arange(16)}
    other = {**weights, "untouched": torch.arange(16) + 1}
    with pytest.raises(CcaError, match=r"^untouched: differs, and a patch cannot hold I64"):
        diff(write_folder(tmp_path / "a", weights), write_folder(tmp_path / "b", other), "toy")


def test_the_toy_has_every_rank() -> None:
    assert {len(SHAPES[name]) for name in PLACES} == {1, 2, 3}
