"""The patch file: one safetensors file, three tensors for each edit, one JSON header in its metadata.

The header carries a digest over itself and over every tensor, so a changed byte anywhere that matters is
noticed and two files with the same digest are the same patch. A patch may come from a stranger: nothing in it
is trusted before it was checked, and nothing in it is ever executed. ``docs/patch-format.md`` is the
specification.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from cca.errors import CcaError
from cca.files import check_version, write_bytes
from cca.models.bits import check_rows, dtype_name, raw_bytes
from cca.patches.patch import VERSION, Patch, TensorEdit

FORMAT = "cca.patch"
PARTS = ("indices", "before", "after")


def save_patch(path: Path, patch: Patch) -> None:
    """Write ``patch`` to ``path``, atomically. Raises CcaError for what `load_patch` would refuse."""
    header, tensors = _pack(patch)
    header["sha256"] = _digest(header, tensors)
    _Header(path, header).patch(tensors)
    write_bytes(path, to_bytes(patch))


def load_patch(path: Path | str) -> Patch:
    """Read a patch file, trusting nothing in it. Raises CcaError, in one line, for any fault."""
    path = Path(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            names = file.keys()
            tensors = {name: file.get_tensor(name).clone() for name in names}
    except FileNotFoundError as error:
        raise CcaError(f"{path}: no such patch file") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise CcaError(
            f"{path}: expected a patch file, got an unreadable or truncated one ({error})"
        ) from error
    header = _parse(path, metadata)
    check_version(str(path), header.get("version"), VERSION)
    return _Header(path, header).patch(tensors)


def to_bytes(patch: Patch) -> bytes:
    """The bytes of the patch file; the same patch gives the same bytes."""
    header, tensors = _pack(patch)
    header["sha256"] = _digest(header, tensors)
    return save(tensors, metadata={FORMAT: _canonical(header)})


def digest(patch: Patch) -> str:
    """SHA-256 (hex) of everything the patch says; its identity."""
    return _digest(*_pack(patch))


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


def _digest(header: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    """Over the canonical header without its own ``sha256``, then each tensor: name, dtype, shape, bytes."""
    state = hashlib.sha256(
        _canonical({key: value for key, value in header.items() if key != "sha256"}).encode()
    )
    for name in sorted(tensors):
        tensor = tensors[name]
        state.update(_canonical([name, dtype_name(tensor), list(tensor.shape)]).encode())
        state.update(raw_bytes(tensor))
    return state.hexdigest()


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=True, allow_nan=False, separators=(",", ":"))


def _parse(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    if set(metadata) != {FORMAT}:
        raise CcaError(f"{path}: expected a patch file (metadata key {FORMAT!r}), got {sorted(metadata)[:3]}")
    try:
        header = json.loads(metadata[FORMAT])
        _canonical(header)  # refuses NaN and infinities
    except (ValueError, RecursionError) as error:
        raise CcaError(f"{path}: expected a JSON header, got {str(error)[:200]}") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise CcaError(f"{path}: expected a header of format {FORMAT!r}, got another")
    return header


class _Header:
    """A parsed but untrusted header of version 1."""

    FIELDS = ("base_model", "base_revision", "circuit", "edits", "format", "made_by", "sha256", "version")
    EDIT_FIELDS = ("axis", "parameter", "sha256", "shape", "tied")

    def __init__(self, path: Path, header: dict[str, Any]) -> None:
        self.path, self.header = path, header

    def patch(self, tensors: dict[str, Tensor]) -> Patch:
        header = self.header
        self._expect(
            tuple(sorted(header)) == self.FIELDS, f"the fields {', '.join(self.FIELDS)}", sorted(header)
        )
        self._expect(_text(header["base_model"]), "'base_model' to be a text", header["base_model"])
        revision = header["base_revision"]
        self._expect(revision is None or _text(revision), "'base_revision' to be a text or null", revision)
        self._expect(_texts(header["circuit"]), "'circuit' to be a list of texts", header["circuit"])
        self._expect(isinstance(header["made_by"], dict), "'made_by' to be an object", header["made_by"])
        self._expect(isinstance(header["edits"], list), "'edits' to be a list", header["edits"])
        for entry in header["edits"]:
            self._check_entry(entry)
        names = [entry["parameter"] for entry in header["edits"]]
        self._expect(names == sorted(set(names)), "each parameter once, in order", names)
        expected = {f"{name}:{part}" for name in names for part in PARTS}
        self._expect(
            set(tensors) == expected, f"the tensors of {len(names)} edits", sorted(set(tensors) ^ expected)
        )
        edits = tuple(self._edit(entry, tensors) for entry in header["edits"])
        if _digest(header, tensors) != header["sha256"]:
            raise CcaError(
                f"{self.path}: its content does not have the digest in its header; fetch the file again"
            )
        return Patch(
            edits,
            header["base_model"],
            revision,
            {entry["parameter"]: entry["sha256"] for entry in header["edits"]},
            {entry["parameter"]: tuple(entry["shape"]) for entry in header["edits"]},
            header["circuit"],
            header["made_by"],
            {entry["parameter"]: entry["tied"] for entry in header["edits"] if entry["tied"]},
            header["version"],
        )

    def _check_entry(self, entry: Any) -> None:
        self._expect(isinstance(entry, dict), "each edit to be an object", entry)
        self._expect(tuple(sorted(entry)) == self.EDIT_FIELDS, f"fields {', '.join(self.EDIT_FIELDS)}", entry)
        name, axis, shape = entry["parameter"], entry["axis"], entry["shape"]
        self._expect(_text(name) and bool(name), "'parameter' to be a name", name)
        self._expect(type(axis) is int, "'axis' to be an integer", axis)
        good = (
            isinstance(shape, list)
            and 1 <= len(shape) <= 3
            and all(type(n) is int and 0 < n < 2**40 for n in shape)
        )
        self._expect(good, "'shape' to be 1 to 3 sizes", shape)
        self._expect(_is_hash(entry["sha256"]), "'sha256' to be 64 hex digits", entry["sha256"])
        self._expect(_texts(entry["tied"]), "'tied' to be a list of names", entry["tied"])

    def _edit(self, entry: dict[str, Any], tensors: dict[str, Tensor]) -> TensorEdit:
        name = entry["parameter"]
        indices, before, after = (tensors[f"{name}:{part}"] for part in PARTS)
        try:
            check_rows(name, entry["shape"], entry["axis"], indices, before, after)
        except CcaError as error:
            raise CcaError(f"{self.path}: {error}") from error
        ascending = indices.numel() > 0 and bool((indices[1:] > indices[:-1]).all())
        self._expect(ascending, f"ascending row indices of {name}", indices.tolist()[:5])
        return TensorEdit(name, entry["axis"], indices, before, after)

    def _expect(self, fine: bool, what: str, found: Any) -> None:
        if not fine:
            raise CcaError(f"{self.path}: expected {what}, got {str(found)[:80]!r}")


def _text(value: Any) -> bool:
    """A text of one line that may be printed: no control characters, which would steer a terminal."""
    return isinstance(value, str) and value.isprintable()


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(_text(item) for item in value)


def _is_hash(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")
