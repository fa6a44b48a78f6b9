"""Headers of checkpoints: read without loading, and refused in one line when damaged."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file
from toy import SHAPES, toy_weights, write_folder

from cca.errors import CcaError
from cca.models.checkpoint import INDEX, open_checkpoint


def test_every_tensor_is_found_where_it_lies(tmp_path: Path) -> None:
    weights = toy_weights(torch.bfloat16)
    checkpoint = open_checkpoint(write_folder(tmp_path / "model", weights))
    assert {name: stored.shape for name, stored in checkpoint.tensors.items()} == SHAPES
    for name, stored in checkpoint.tensors.items():
        data = (checkpoint.folder / stored.shard).read_bytes()[stored.start : stored.start + stored.size]
        assert stored.dtype == "BF16"
        assert data == weights[name].view(torch.uint8).numpy().tobytes()


def test_the_files_read_are_those_that_transformers_reads(tmp_path: Path) -> None:
    """`transformers_weights` of config.json first, then the single file, then the index; nothing else."""
    folder = write_folder(tmp_path / "model", toy_weights())
    sharded = open_checkpoint(folder)
    assert len(sharded.shards) == 4
    assert set(sharded.weight_files) == {INDEX, *sharded.shards}
    save_file(toy_weights(), folder / "model.safetensors")
    save_file({"x": torch.zeros(1)}, folder / "adapter_model.safetensors")
    assert open_checkpoint(folder).shards == ("model.safetensors",)
    save_file(toy_weights(seed=1), folder / "second.safetensors")
    (folder / "config.json").write_text('{"transformers_weights": "second.safetensors"}')
    assert open_checkpoint(folder).shards == ("second.safetensors",)
    (folder / "config.json").write_text(json.dumps({"transformers_weights": INDEX}))
    assert open_checkpoint(folder) == sharded
    for hostile in ("../second.safetensors", "/etc/passwd", 3, "pytorch_model.bin"):
        (folder / "config.json").write_text(json.dumps({"transformers_weights": hostile}))
        with pytest.raises(CcaError, match="'transformers_weights' to name"):
            open_checkpoint(folder)


def shard_with(entry: Any) -> bytes:
    header = json.dumps({"weight": entry}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(8)


DAMAGED = {
    "nothing": b"",
    "short": b"1234567",
    "huge header": struct.pack("<Q", 2**63) + b"{}",
    "not json": struct.pack("<Q", 2) + b"{]",
    "not an object": struct.pack("<Q", 2) + b"[]",
    "deep": struct.pack("<Q", 100_000) + b"[" * 100_000,
    "truncated": save(toy_weights())[:-1],
    "no offsets": shard_with({"dtype": "F32", "shape": [2]}),
    "negative": shard_with({"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}),
    "backwards": shard_with({"dtype": "I64", "shape": [0], "data_offsets": [8, 0]}),
    "too long": shard_with({"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}),
    "other shape": shard_with({"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}),
    "float shape": shard_with({"dtype": "F32", "shape": [2.0], "data_offsets": [0, 8]}),
    "entry is text": shard_with("weight"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_shard_is_refused_by_name(tmp_path: Path, name: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(DAMAGED[name])
    with pytest.raises(CcaError, match=r"model\.safetensors: ") as refusal:
        open_checkpoint(tmp_path)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("[]", "expected a 'weight_map'"),
        ('{"weight_map": {}}', "expected a 'weight_map'"),
        ('{"weight_map": {"rows": 3}}', "expected a 'weight_map'"),
        ('{"weight_map": {"rows": "../other.safetensors"}}', "expected safetensors files next to it"),
        ('{"weight_map": {"rows": "/etc/passwd"}}', "expected safetensors files next to it"),
        ('{"weight_map": {"rows": "model.bin"}}', "expected safetensors files next to it"),
        ('{"weight_map": {"rows": "absent.safetensors"}}', "absent.safetensors: a shard of the model cannot be read"),
        ("{", "expected JSON"),
    ],
)
def test_a_wrong_index_is_refused(tmp_path: Path, index: str, message: str) -> None:
    folder = write_folder(tmp_path / "model", toy_weights())
    (folder / INDEX).write_text(index)
    with pytest.raises(CcaError, match=message):
        open_checkpoint(folder)


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", toy_weights())
    shard = folder / "model-00004-of-00004.safetensors"
    save_file({"rows": torch.zeros(9, 6), "untouched": torch.zeros(4, 4)}, shard)
    with pytest.raises(CcaError, match=r"'rows' is also in model-00001"):
        open_checkpoint(folder)


def test_folders_without_safetensors_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CcaError, match="expected a model folder, found nothing"):
        open_checkpoint(tmp_path / "absent")
    with pytest.raises(CcaError, match="got neither"):
        open_checkpoint(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(CcaError, match="pickled weights; save the model again as safetensors"):
        open_checkpoint(tmp_path)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 700), value=st.integers(0, 255))
def test_a_changed_header_is_refused_or_stays_inside_the_file(tmp_path: Path, place: int, value: int) -> None:
    content = bytearray(save(toy_weights()))
    content[place] = value
    (tmp_path / "model.safetensors").write_bytes(content)
    try:
        checkpoint = open_checkpoint(tmp_path)
    except CcaError:
        return
    for stored in checkpoint.tensors.values():
        assert 0 <= stored.start <= stored.start + stored.size <= len(content)
