"""Tensors compared and hashed as bits, and the one check that rows fit the parameter they name.

Equality of values is not enough for a patch: -0.0 == 0.0 although the bytes differ, and a NaN is not even
itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from cca.models.row_shapes import check_range, check_row_shapes

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}  # safetensors'

_INTEGER = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def bits(tensor: Tensor) -> Tensor:
    """The same bytes as integers, on the CPU."""
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
    facts = [(dtype_name(tensor), tuple(tensor.shape)) for tensor in (indices, before, after)]
    check_row_shapes(name, shape, axis, *facts)
    if indices.numel():
        check_range(name, shape, axis, int(indices.min()), int(indices.max()))


def dtype_name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
