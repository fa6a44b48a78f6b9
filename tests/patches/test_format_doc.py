"""The reader in docs/reference/patch-format.md, which shares no code with ours, reads and applies our patches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from toy import patched, toy_patch, toy_weights

from cca.models.anatomy.weight_rows import bits
from cca.patches.patch_file import digest, save_patch

DOCUMENT = Path(__file__).parents[2] / "docs" / "reference" / "patch-format.md"


@pytest.fixture(scope="module")
def reader() -> dict[str, Any]:
    code = DOCUMENT.read_text().split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {}
    exec(code, names)
    return names


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_the_documented_reader_applies_a_patch(tmp_path: Path, reader: dict[str, Any], dtype: torch.dtype) -> None:
    weights = toy_weights(dtype)
    patch = toy_patch(weights)
    save_patch(tmp_path / "patch.safetensors", patch)
    header, tensors = reader["read_patch"](tmp_path / "patch.safetensors")
    assert header["sha256"] == digest(patch)
    unsigned = "<u2" if dtype.itemsize == 2 else "<u4"
    held = {name: bits(tensor).numpy().view(unsigned).copy() for name, tensor in weights.items()}
    reader["apply"](header, tensors, held)
    for name, expected in patched(weights).items():
        assert (held[name] == bits(expected).numpy().view(unsigned)).all(), name


def test_the_documented_reader_notices_a_changed_byte(tmp_path: Path, reader: dict[str, Any]) -> None:
    path = tmp_path / "patch.safetensors"
    save_patch(path, toy_patch(toy_weights()))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(AssertionError):
        reader["read_patch"](path)
