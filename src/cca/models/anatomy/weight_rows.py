"""Rows of weights: which ones a component owns, and reading and writing them exact to the bit.

A *row* is the smallest stretch of a parameter that belongs to one unit (a head's output feature, a neuron):

* 1-D parameter, axis 0: one scalar, as a row of length 1.
* 2-D parameter, axis 0: a row; axis 1: a column. GPT-2's Conv1D keeps (in, out), so there an output feature's
  "row" lies along axis 1.
* 3-D parameter of fused experts (E, A, B), axis 1 or 2: the indexed axis; index = expert * size(axis) + j.
* 2-D bias of fused experts (E, A), axis -1 (`EACH`): every scalar is a row; index = expert * A + j.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import Tensor

from cca import distributed
from cca.models.checkpoint import EACH, check_range, check_row_shapes, row_shape

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


@dataclass(frozen=True, eq=False)
class WeightRows:
    """Some rows of one parameter. ``indices`` is int64, sorted, without repeats, on the CPU."""

    parameter: str
    axis: int
    indices: Tensor  # (k,)


@dataclass(frozen=True)
class UnitRows:
    """The rows that each of ``n`` units of a layer owns in one weight, as an arithmetic pattern.

    Unit u (counted from ``first`` within its kind in the layer) owns ``length`` consecutive rows from
    start + (u // group) * group_step + (u % group) * step. That covers separate and fused projections, heads
    interleaved with keys and values, gate and up rows interleaved or in halves, and stacks of experts.
    """

    kind: str
    role: str  # one of q k v o up gate down
    weight: str
    bias: str | None
    axis: int
    n: int
    length: int
    start: int
    step: int
    group: int
    group_step: int
    first: int = 0

    def indices(self, units: Tensor) -> Tensor:
        """Row indices, (k, length), of ``units`` (k,), counted from 0 within this pattern."""
        begin = self.start + units // self.group * self.group_step + units % self.group * self.step
        return begin[:, None] + torch.arange(self.length)

    @property
    def module(self) -> str:
        """Dotted name of the module that holds the weight."""
        return self.weight.rpartition(".")[0]


def get_rows(tensor: Tensor, axis: int, indices: Tensor) -> Tensor:
    """A copy of the rows with these ``indices`` (k,) along ``axis``, (k, row length).

    Differentiable in ``tensor`` unless it is sharded: then all processes read at once.
    """
    view = _rows_last(whole(tensor), axis)
    return view[_positions(view, indices)]


def set_rows_(tensor: Tensor, axis: int, indices: Tensor, rows: Tensor) -> None:
    """Write ``rows`` (k, row length) into ``tensor`` in place, whatever its strides, cast to its dtype and device."""
    if in_shards(tensor):
        tensor, indices, rows = own_part(tensor, axis, indices, rows)
    with torch.no_grad():
        view = _rows_last(tensor, axis)
        view[_positions(view, indices)] = rows.detach().to(view)


def with_rows(tensor: Tensor, axis: int, indices: Tensor, rows: Tensor) -> Tensor:
    """A copy of ``tensor`` that holds ``rows`` (k, row length) at ``indices``; differentiable in the rows."""
    view = _rows_last(tensor, axis)
    copy = view.index_put(_positions(view, indices), rows)
    if axis == EACH or tensor.dim() == 1:
        return copy.squeeze(-1)
    return copy if axis == tensor.dim() - 2 else copy.transpose(-1, -2)


def _rows_last(tensor: Tensor, axis: int) -> Tensor:
    """A view, never a copy, whose last axis runs along a row: (n, length), or (E, n, length) with experts."""
    if axis == EACH or tensor.dim() == 1:
        return tensor.unsqueeze(-1)
    return tensor if axis == tensor.dim() - 2 else tensor.transpose(-1, -2)


def _positions(view: Tensor, indices: Tensor) -> tuple[Tensor, ...]:
    indices = indices.to(view.device)
    if view.dim() == 2:
        return (indices,)
    return indices // view.shape[1], indices % view.shape[1]


def in_shards(tensor: Tensor) -> TypeGuard[DTensor]:
    made = sys.modules.get("torch.distributed.tensor")  # half a second to load, and needed to make a DTensor
    return made is not None and isinstance(tensor, made.DTensor)


def whole(tensor: Tensor) -> Tensor:
    """The tensor itself; a sharded one whole, gathered by all processes at once."""
    return tensor.full_tensor() if in_shards(tensor) else tensor


def own_part(tensor: DTensor, axis: int, indices: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """This process's part of a sharded weight, and of ``rows`` (k, row length) to write into it along ``axis``.

    Returns (local tensor, indices in it, rows for it), as `cca.models.anatomy.weight_rows` uses them.
    """
    local, shape = tensor.to_local(), tensor.shape
    each = -(-shape[0] // distributed.size())
    low = min(distributed.rank() * each, shape[0])
    high = low + local.shape[0]
    if tensor.dim() == 2 and axis == 1:
        return local, indices, rows[:, low:high]
    # indices along other axes than the first count through it: index = position * inner + index within
    inner = row_shape(shape, axis)[0] // shape[0]
    positions = indices // inner
    here = (positions >= low) & (positions < high)
    return local, indices[here] - low * inner, rows[here.to(rows.device)]


DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}  # safetensors'

_INTEGER = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


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


def check_rows(name: str, shape: Sequence[int], axis: int, indices: Tensor, before: Tensor, after: Tensor) -> None:
    """Raise CcaError unless the rows fit a parameter of ``shape`` along ``axis``."""
    facts = [(dtype_name(tensor), tuple(tensor.shape)) for tensor in (indices, before, after)]
    check_row_shapes(name, shape, axis, *facts)
    if indices.numel():
        check_range(name, shape, axis, int(indices.min()), int(indices.max()))


def dtype_name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
