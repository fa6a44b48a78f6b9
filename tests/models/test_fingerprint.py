"""The fingerprint of a model: every byte counts, and files that change are hashed again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny_world
from cca.models import fingerprint
from cca.models.fingerprint import model_fingerprint
from cca.models.loading import load_model


def test_every_byte_of_every_weight_counts() -> None:
    model = tiny_world.model(dtype=torch.float32)
    found = {model_fingerprint(model)}
    for parameter in model.parameters():
        flat = parameter.data.reshape(-1)
        for place in (0, flat.numel() // 2 + 1, flat.numel() - 1):
            bits = flat.view(torch.int32)
            bits[place] ^= 1
            found.add(model_fingerprint(model))
            bits[place] ^= 1
    assert len(found) == 1 + 3 * len(list(model.parameters()))
    model.model.layers[0].register_buffer("correction", torch.zeros(3))
    assert model_fingerprint(model) not in found


def test_the_cache_forgets_files_that_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "REMEMBERED_BYTES", 1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "model"
    tiny_world.model(dtype=torch.float32).save_pretrained(folder)
    tiny_world.tokenizer().save_pretrained(folder)
    first = load_model(str(folder)).fingerprint
    assert first == model_fingerprint(tiny_world.model(dtype=torch.float32))
    (remembered,) = (tmp_path / "cache" / "cca" / "fingerprints").iterdir()
    assert remembered.read_text().strip() == first
    remembered.write_text("0123456789abcdef\n")
    assert load_model(str(folder)).fingerprint == "0123456789abcdef"  # it is read from there
    path = folder / "model.safetensors"
    weights, before = load_file(path), path.stat()
    next(iter(weights.values()))[0] += 1
    save_file(weights, path, metadata={"format": "pt"})
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert load_model(str(folder)).fingerprint not in (first, "0123456789abcdef")
    assert load_model(str(folder), dtype="bfloat16").fingerprint not in (first, "0123456789abcdef")
