"""Rows of weights: which ones a component owns, and reading and writing them exact to the bit.

A *row* is the smallest stretch of a parameter that belongs to one unit (a head's output feature, a neuron):

* 1-D parameter, axis 0: one scalar, as a row of length 1.
* 2-D parameter, axis 0: a row; axis 1: a column. GPT-2's Conv1D keeps (in, out), so there an output feature's
  "row" lies along axis 1.
* 3-D parameter of fused experts (E, A, B), axis 1 or 2: the indexed axis; index = expert * size(axis) + j.
* 2-D bias of fused experts (E, A), axis -1 (`EACH`): every scalar is a row; index = expert * A + j.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cca.models.row_shapes import EACH
from cca.models.row_shapes import row_shape as row_shape
from cca.models.sharded_tensors import in_shards, own_part, whole


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
    """A copy of the rows, (k, row length); differentiable in ``tensor`` unless it is sharded."""
    view = _rows_last(whole(tensor), axis)
    return view[_positions(view, indices)]


def set_rows_(tensor: Tensor, axis: int, indices: Tensor, rows: Tensor) -> None:
    """Write ``rows`` (k, row length) in place, whatever the strides; cast to its dtype and device."""
    if in_shards(tensor):
        tensor, indices, rows = own_part(tensor, axis, indices, rows)
    with torch.no_grad():
        view = _rows_last(tensor, axis)
        view[_positions(view, indices)] = rows.detach().to(view)


def with_rows(tensor: Tensor, axis: int, indices: Tensor, rows: Tensor) -> Tensor:
    """A copy of the tensor that holds ``rows``; differentiable in them."""
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
