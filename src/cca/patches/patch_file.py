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
from cca.patches.patch_content import (
    FORMAT,
    PARTS,
    PatchContent,
    RawTensor,
    canonical,
    check_content,
    content_digest,
    load_content,
)


def save_patch(path: Path, patch: Patch) -> None:
    """Write ``patch`` to ``path``, atomically. Raises CcaError for what `load_patch` would refuse."""
    header, tensors = _pack(patch)
    raw = _raw(tensors)
    text = canonical({**header, "sha256": content_digest(header, raw)})
    check_content(path, {FORMAT: text}, raw)
    write_bytes(path, save(tensors, metadata={FORMAT: text}))


def load_patch(path: Path | str) -> Patch:
    """Read a patch file, trusting nothing in it. Raises CcaError, in one line, for any fault."""
    return to_patch(load_content(path))


def to_patch(content: PatchContent) -> Patch:
    """The patch of a checked content."""
    header, entries = content.header, content.header["edits"]

    def tensor(entry: dict[str, Any], part: str) -> Tensor:
        raw = content.tensors[f"{entry['parameter']}:{part}"]
        return torch.frombuffer(bytearray(raw.data), dtype=getattr(torch, raw.dtype)).reshape(raw.shape)

    return Patch(
        tuple(
            TensorEdit(entry["parameter"], entry["axis"], *(tensor(entry, part) for part in PARTS)) for entry in entries
        ),
        header["base_model"],
        header["base_revision"],
        {entry["parameter"]: entry["sha256"] for entry in entries},
        {entry["parameter"]: tuple(entry["shape"]) for entry in entries},
        header["circuit"],
        header["made_by"],
        {entry["parameter"]: entry["tied"] for entry in entries if entry["tied"]},
        header["version"],
    )


def to_bytes(patch: Patch) -> bytes:
    """The bytes of the patch file; the same patch gives the same bytes."""
    header, tensors = _pack(patch)
    text = canonical({**header, "sha256": content_digest(header, _raw(tensors))})
    return save(tensors, metadata={FORMAT: text})


def digest(patch: Patch) -> str:
    """SHA-256 (hex) of everything the patch says; its identity."""
    header, tensors = _pack(patch)
    return content_digest(header, _raw(tensors))


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
    return header, tensors


def _raw(tensors: dict[str, Tensor]) -> dict[str, RawTensor]:
    return {
        name: RawTensor(dtype_name(tensor), tuple(tensor.shape), raw_bytes(tensor)) for name, tensor in tensors.items()
    }
