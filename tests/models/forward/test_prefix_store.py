from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch

from cca.errors import CcaError
from cca.models.forward import prefix_store as prefix_storage
from cca.models.forward.prefix_state import OwnPrefixes
from cca.models.forward.prefix_store import StoredPrefixes


def batch(tokens: int = 5) -> OwnPrefixes:
    keys = tuple(torch.randn(2, 3, tokens, 4) for _ in range(2))
    values = tuple(torch.randn(2, 3, tokens, 4) for _ in range(2))
    return OwnPrefixes(keys, values, torch.tensor([5, 2, 4]), (7, 0, 3))


@pytest.mark.parametrize("storage", ["device", "memory", "disk"])
@pytest.mark.parametrize("tokens", [5, 0])
def test_batches_come_back_as_they_went(storage: str, tokens: int, tmp_path: Path) -> None:
    stored = StoredPrefixes(6 * tokens, storage, tmp_path)  # type: ignore[arg-type]
    batches = [batch(tokens), batch(tokens)]
    for one in batches:
        stored.append(one)
    assert len(stored) == 2
    for one, back in zip(batches, stored, strict=True):
        assert back.rows == one.rows
        assert torch.equal(back.lengths, one.lengths)
        assert all(torch.equal(a, b) for a, b in zip(back.keys + back.values, one.keys + one.values, strict=True))
    assert [one.rows for one in stored[:1]] == [(7, 0, 3)]
    assert bool(list(tmp_path.rglob("*.safetensors"))) == (storage == "disk")


def test_files_go_with_the_object(tmp_path: Path) -> None:
    stored = StoredPrefixes(15, "disk", tmp_path)
    stored.append(batch())
    del stored
    gc.collect()
    assert not list(tmp_path.iterdir())


def test_the_first_place_with_room_is_taken_and_the_numbers_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = {
        "memory": 2500,  # half of it may be taken
        "disk": 10**6,
    }  # 15 padded tokens of a batch take 2 * 2 * 2 * 3 * 5 * 4 * 4 = 1920
    monkeypatch.setattr(prefix_storage, "_free", lambda _device, _folder: free)
    stored = StoredPrefixes(15, folder=tmp_path)
    stored.append(batch())
    assert stored.storage == "disk"
    assert stored.needed == 1920
    assert str(stored) == (
        "prefixes of 15 tokens take 0.00 GiB; memory has 0.00 GiB free, disk has 0.00 GiB free; kept on disk"
    )
    free["memory"] = 10**6
    stored = StoredPrefixes(15, folder=tmp_path)
    stored.append(batch())
    assert stored.storage == "memory"


def test_no_room_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix_storage, "_free", lambda _device, _folder: {"memory": 10, "disk": 10})
    with pytest.raises(CcaError, match="expected room"):
        StoredPrefixes(15, folder=tmp_path).append(batch())
    with pytest.raises(CcaError, match="expected auto"):
        StoredPrefixes(15, "tape")  # type: ignore[arg-type]


def test_free_room_is_measured(tmp_path: Path) -> None:
    free = prefix_storage._free(torch.device("cpu"), tmp_path / "not" / "yet")
    assert list(free) == ["memory", "disk"]
    assert all(size > 2**20 for size in free.values())
