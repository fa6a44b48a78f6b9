"""The content of a patch file, read and checked without torch, so that looking at a patch takes no time.

A patch is one safetensors file: three tensors for each edit, one JSON header in its metadata. The header carries a
digest over itself and over every tensor, so a changed byte anywhere that matters is noticed and two files with the same
digest are the same patch. A patch may come from a stranger: nothing in it is trusted before it was checked, and nothing
in it is ever executed. ``docs/reference/patch-format.md`` is the specification.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, deserialize, safe_open

from cca.errors import CcaError
from cca.files import check_version
from cca.models.checkpoint import FLOATS, check_range, check_row_shapes

FORMAT = "cca.patch"
VERSION = 1
PARTS = ("indices", "before", "after")
DTYPES = {**FLOATS, "I64": "int64"}
"""Name of a dtype in the file -> its name in the digest and in torch."""
MOST_DIGITS = 20
"""Digits of a whole number in the header: none that means anything has more, and Python refuses to print 4,300."""
LONGEST_NAME = 500
EXPONENTS = {
    "float64": ("<u8", 0x7FF0 << 48), "float32": ("<u4", 0x7F80 << 16), "float16": ("<u2", 0x7C00),
    "bfloat16": ("<u2", 0x7F80),
}  # fmt: skip
"""Dtype -> the unsigned integer of its size, and the bits of its exponent, all set in infinities and NaN."""
_LAYER = re.compile(r"\.(\d{1,6})\.", re.ASCII)


@dataclass(frozen=True)
class RawTensor:
    """A tensor as its bytes, row-major and little-endian. ``dtype`` is torch's name of it."""

    dtype: str
    shape: tuple[int, ...]
    data: memoryview


@dataclass(frozen=True)
class PatchContent:
    """A checked header and the tensors it speaks of."""

    header: dict[str, Any]
    tensors: dict[str, RawTensor]

    @property
    def base(self) -> str:
        """The base model and its revision, in words."""
        revision = self.header["base_revision"]
        return self.header["base_model"] + (f" at revision {revision}" if revision else "")

    @property
    def parameters(self) -> list[str]:
        return [entry["parameter"] for entry in self.header["edits"]]

    @property
    def weights(self) -> int:
        """Single weights in the touched rows."""
        return sum(int(np.prod(self.tensors[f"{name}:after"].shape)) for name in self.parameters)

    @property
    def dtypes(self) -> list[str]:
        return sorted({self.tensors[f"{name}:after"].dtype for name in self.parameters})

    def rows(self) -> dict[tuple[int | None, str], int]:
        """(layer, kind of weight) -> rows or columns edited there."""
        found: Counter[tuple[int | None, str]] = Counter()
        for name in self.parameters:
            found[layer_of(name), kind_of(name)] += self.tensors[f"{name}:indices"].shape[0]
        return dict(found)

    def not_finite(self) -> int:
        """Weights that the patch would write and that are infinite or NaN."""
        return sum(_not_finite(self.tensors[f"{name}:after"]) for name in self.parameters)


def load_content(path: Path | str) -> PatchContent:
    """Read and check a patch file. Raises CcaError, in one line, for any fault."""
    path = Path(path)
    try:
        with safe_open(path, framework="numpy") as file:  # which refuses holes, overlaps and what is cut off
            metadata = file.metadata() or {}
        stored = deserialize(path.read_bytes())
    except FileNotFoundError as error:
        raise CcaError(f"{path}: no such patch file") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise CcaError(f"{path}: expected a patch file, got an unreadable or truncated one ({error})") from error
    tensors = {
        name: RawTensor(str(DTYPES.get(held["dtype"], held["dtype"])), tuple(held["shape"]), memoryview(held["data"]))
        for name, held in stored
    }
    return check_content(path, metadata, tensors)


def check_content(path: Path, metadata: Mapping[str, str], tensors: dict[str, RawTensor]) -> PatchContent:
    """The content with this metadata, checked. Raises CcaError naming ``path`` and the first fault."""
    header = _parse(path, metadata)
    check_version(str(path), header.get("version"), VERSION)
    _check_header(path, header, tensors)
    if content_digest(header, tensors) != header["sha256"]:
        raise CcaError(f"{path}: its content does not have the digest in its header; fetch the file again")
    return PatchContent(header, tensors)


def content_digest(header: Mapping[str, Any], tensors: Mapping[str, RawTensor]) -> str:
    """SHA-256 (hex) over the canonical header without its ``sha256``, then each tensor: name, dtype, shape, bytes."""
    state = hashlib.sha256(canonical({key: value for key, value in header.items() if key != "sha256"}).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        state.update(canonical([name, tensor.dtype, list(tensor.shape)]).encode())
        state.update(tensor.data)
    return state.hexdigest()


def canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=True, allow_nan=False, separators=(",", ":"))


def layer_of(parameter: str) -> int | None:
    """The layer number in a parameter's name; None outside the layers."""
    match = _LAYER.search(parameter)
    return int(match.group(1)) if match else None


def kind_of(parameter: str) -> str:
    """The name of a weight inside its layer: ``q_proj``, ``c_attn``, ``gate_up_proj``, ``up_proj.bias``."""
    stem, _, leaf = parameter.rpartition(".")
    if leaf in ("weight", "bias"):
        kind = stem.rpartition(".")[2]
        return kind if leaf == "weight" else f"{kind}.bias"
    return leaf


def _not_finite(tensor: RawTensor) -> int:
    integer, exponent = EXPONENTS[tensor.dtype]
    numbers = np.frombuffer(tensor.data, integer)
    return int(np.count_nonzero((numbers & numbers.dtype.type(exponent)) == exponent))


def _parse(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    if set(metadata) != {FORMAT}:
        found = [name[:80] for name in sorted(metadata)[:3]]
        raise CcaError(f"{path}: expected a patch file (metadata key {FORMAT!r}), got {found}")
    try:
        header = json.loads(metadata[FORMAT], parse_int=_whole_number)
        canonical(header)  # refuses NaN and infinities
    except (ValueError, RecursionError) as error:
        raise CcaError(f"{path}: expected a JSON header, got {str(error)[:200]}") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise CcaError(f"{path}: expected a header of format {FORMAT!r}, got another")
    return header


def _whole_number(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


FIELDS = ("base_model", "base_revision", "circuit", "edits", "format", "made_by", "sha256", "version")
EDIT_FIELDS = ("axis", "parameter", "sha256", "shape", "tied")


def _check_header(path: Path, header: dict[str, Any], tensors: Mapping[str, RawTensor]) -> None:
    """Raise CcaError for the first fault of a parsed but untrusted header of version 1, and of the tensors' shapes."""

    def expect(fine: bool, what: str, found: Any) -> None:
        if not fine:
            raise CcaError(f"{path}: expected {what}, got {str(found)[:80]!r}")

    expect(tuple(sorted(header)) == FIELDS, f"the fields {', '.join(FIELDS)}", sorted(header))
    expect(_text(header["base_model"]), "'base_model' to be a text", header["base_model"])
    revision = header["base_revision"]
    expect(revision is None or _text(revision), "'base_revision' to be a text or null", revision)
    expect(_texts(header["circuit"]), "'circuit' to be a list of texts", header["circuit"])
    expect(isinstance(header["made_by"], dict), "'made_by' to be an object", header["made_by"])
    expect(isinstance(header["edits"], list), "'edits' to be a list", header["edits"])
    for entry in header["edits"]:
        _check_entry(entry, expect)
    names = [entry["parameter"] for entry in header["edits"]]
    expect(names == sorted(set(names)), "each parameter once, in order", names)
    wanted = {f"{name}:{part}" for name in names for part in PARTS}
    expect(set(tensors) == wanted, f"the tensors of {len(names)} edits", sorted(set(tensors) ^ wanted))
    for entry in header["edits"]:
        name, shape, axis = entry["parameter"], entry["shape"], entry["axis"]
        parts = [tensors[f"{name}:{part}"] for part in PARTS]
        try:
            check_row_shapes(name, shape, axis, *[(tensor.dtype, tensor.shape) for tensor in parts])
            indices = np.frombuffer(parts[0].data, "<i8")
            ascending = len(indices) > 0 and bool((indices[1:] > indices[:-1]).all())
            expect(ascending, f"ascending row indices of {name}", indices[:5].tolist())
            check_range(name, shape, axis, int(indices[0]), int(indices[-1]))
        except CcaError as error:
            raise CcaError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from error


def _check_entry(entry: Any, expect: Callable[[bool, str, Any], None]) -> None:
    expect(isinstance(entry, dict), "each edit to be an object", entry)
    expect(tuple(sorted(entry)) == EDIT_FIELDS, f"fields {', '.join(EDIT_FIELDS)}", entry)
    name, axis, shape = entry["parameter"], entry["axis"], entry["shape"]
    expect(_text(name) and 0 < len(name) <= LONGEST_NAME, "'parameter' to be a name", name)
    expect(type(axis) is int, "'axis' to be an integer", axis)
    good = isinstance(shape, list) and 1 <= len(shape) <= 3 and all(type(n) is int and 0 < n < 2**40 for n in shape)
    expect(good, "'shape' to be 1 to 3 sizes", shape)
    is_hash = isinstance(entry["sha256"], str) and re.fullmatch("[0-9a-f]{64}", entry["sha256"])
    expect(bool(is_hash), "'sha256' to be 64 hex digits", entry["sha256"])
    expect(_texts(entry["tied"]), "'tied' to be a list of names", entry["tied"])


def _text(value: Any) -> bool:
    """True for a text of one line that may be printed: no control characters, which would steer a terminal."""
    return isinstance(value, str) and value.isprintable()


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(_text(item) for item in value)
