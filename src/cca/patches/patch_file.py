"""Patches written to files and read from them; `cca.patches.patch_content` holds the format and its checks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from cca.files import write_bytes
from cca.models.anatomy.weight_rows import dtype_name, raw_bytes
from cca.patches.patch import Patch, TensorEdit
from cca.patches.patch_content import FORMAT, PARTS, RawTensor, canonical, check_content, content_digest, load_content


def save_patch(path: Path, patch: Patch) -> None:
    """Write ``patch`` to ``path``, atomically. Raises CcaError for what `load_patch` would refuse."""
    header, tensors = _pack(patch)
    text = canonical(header)
    check_content(path, {FORMAT: text}, _raw(tensors))
    write_bytes(path, save(tensors, metadata={FORMAT: text}))


def load_patch(path: Path | str) -> Patch:
    """Read a patch file, trusting nothing in it. Raises CcaError, in one line, for any fault."""
    content = load_content(path)
    header, entries = content.header, content.header["edits"]

    def tensor(entry: dict[str, Any], part: str) -> Tensor:
        raw = content.tensors[f"{entry['parameter']}:{part}"]
        return torch.frombuffer(bytearray(raw.data), dtype=getattr(torch, raw.dtype)).reshape(raw.shape)

    edits = [
        TensorEdit(entry["parameter"], entry["axis"], *(tensor(entry, part) for part in PARTS)) for entry in entries
    ]
    return Patch(
        tuple(edits), header["base_model"], header["base_revision"],
        {entry["parameter"]: entry["sha256"] for entry in entries},
        {entry["parameter"]: tuple(entry["shape"]) for entry in entries},
        header["circuit"], header["made_by"],
        {entry["parameter"]: entry["tied"] for entry in entries if entry["tied"]}, header["version"],
    )  # fmt: skip


def to_bytes(patch: Patch) -> bytes:
    """The bytes of the patch file; the same patch gives the same bytes."""
    header, tensors = _pack(patch)
    return save(tensors, metadata={FORMAT: canonical(header)})


def digest(patch: Patch) -> str:
    """SHA-256 (hex) of everything the patch says; its identity."""
    return _pack(patch)[0]["sha256"]


def _pack(patch: Patch) -> tuple[dict[str, Any], dict[str, Tensor]]:
    header: dict[str, Any] = {
        "format": FORMAT,
        "version": patch.version,
        "base_model": patch.base_model,
        "base_revision": patch.base_revision,
        "circuit": list(patch.circuit),
        "made_by": dict(patch.made_by),
        "edits": [
            {
                "parameter": edit.parameter,
                "axis": edit.axis,
                "shape": list(patch.base_shapes[edit.parameter]),
                "sha256": patch.base_hashes[edit.parameter],
                "tied": list(patch.tied.get(edit.parameter, [])),
            }
            for edit in patch.edits
        ],
    }
    tensors = {f"{edit.parameter}:{part}": getattr(edit, part) for edit in patch.edits for part in PARTS}
    return {**header, "sha256": content_digest(header, _raw(tensors))}, tensors


def _raw(tensors: dict[str, Tensor]) -> dict[str, RawTensor]:
    return {
        name: RawTensor(dtype_name(tensor), tuple(tensor.shape), raw_bytes(tensor)) for name, tensor in tensors.items()
    }
