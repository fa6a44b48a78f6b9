"""Comparison and hashes of tensors as bits, and the check that rows fit the parameter they name.

Equality of values is not enough for a patch: -0.0 == 0.0 although the bytes differ, and a NaN is not even
itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from cca.errors import CcaError
from cca.models.anatomy.weight_rows import EACH, row_shape

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}  # safetensors'

_INTEGER = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_AXES = {1: (0,), 2: (0, 1, EACH), 3: (1, 2)}  # rank of the parameter -> axes that rows may lie along


def bits(tensor: Tensor) -> Tensor:
    """The same bytes as integers of the same shape, on the CPU."""
    tensor = tensor.detach().cpu().contiguous()
    return tensor.view(_INTEGER[tensor.element_size()])


def same_bits(left: Tensor, right: Tensor) -> bool:
    return left.dtype == right.dtype and left.shape == right.shape and torch.equal(bits(left), bits(right))


def raw_bytes(tensor: Tensor) -> memoryview:
    """The tensor's row-major bytes, as safetensors stores them (little-endian)."""
    return bits(tensor).reshape(-1).view(torch.uint8).numpy().data


def tensor_hash(tensor: Tensor) -> str:
    """SHA-256 (hex) of `raw_bytes`."""
    return hashlib.sha256(raw_bytes(tensor)).hexdigest()


def check_rows(
    name: str, shape: Sequence[int], axis: int, indices: Tensor, before: Tensor, after: Tensor
) -> None:
    """Raise CcaError unless the rows fit a parameter of ``shape`` along ``axis``."""
    if axis not in _AXES.get(len(shape), ()):
        raise CcaError(f"{name}: a parameter of shape {list(shape)} has no rows along axis {axis}")
    count, length = row_shape(shape, axis)
    if indices.dtype != torch.int64 or indices.ndim != 1:
        raise CcaError(f"{name}: expected 1-D int64 indices, got {indices.ndim}-D {dtype_name(indices)}")
    k = indices.numel()
    for what, rows in (("before", before), ("after", after)):
        if tuple(rows.shape) != (k, length):
            raise CcaError(f"{name}: expected {what!r} of shape {[k, length]}, got {list(rows.shape)}")
        if rows.dtype not in DTYPES.values():
            raise CcaError(
                f"{name}: expected {what!r} in float32, float16 or bfloat16, got {dtype_name(rows)}"
            )
    if before.dtype != after.dtype:
        raise CcaError(
            f"{name}: 'before' is {dtype_name(before)}, 'after' {dtype_name(after)}; expected one dtype"
        )
    if k and not 0 <= int(indices.min()) <= int(indices.max()) < count:
        first, last = int(indices.min()), int(indices.max())
        raise CcaError(f"{name}: row indices must lie in 0 ... {count - 1}, got {first} ... {last}")


def dtype_name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
