"""Rows of a parameter where they lie on disk: read, overwritten, or hashed, a block at a time.

A parameter may be stored as one tensor, or as several whose bytes, one after the other, are the parameter's
(the experts of a layer, one tensor each). `StoredParameter` hides that: everything here works on one array of
(height, width) numbers. Where a patch's row is a row of that array it is contiguous, and is read and written
alone; where it is a column it is scattered, so whole blocks are read, changed and written back.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cca.models.anatomy.weight_rows import DTYPES, EACH, bits
from cca.models.checkpoint import ITEM_SIZE, ShardFile, StoredTensor
from cca.patches.patch import TensorEdit

BLOCK = 8 << 20  # bytes read at a time

_INTEGER = {1: np.uint8, 2: np.int16, 4: np.int32, 8: np.int64}
Numbers = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class StoredParameter:
    """One stored copy of a parameter: the tensors whose bytes, joined, are its row-major bytes."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    pieces: tuple[StoredTensor, ...]

    @property
    def shards(self) -> set[str]:
        return {piece.shard for piece in self.pieces}

    @property
    def stored_name(self) -> str:
        """What to call it in a message: its name in the file, or of its first piece."""
        return self.pieces[0].name

    @property
    def width(self) -> int:
        return self.shape[-1] if len(self.shape) > 1 else 1

    @property
    def height(self) -> int:
        return math.prod(self.shape) // max(1, self.width)

    def read(self, files: Mapping[str, ShardFile], first: int, last: int) -> Numbers:
        """Rows ``first`` ... ``last``, (last - first, width), as integers of the dtype's size."""
        out = np.empty((last - first, self.width), _INTEGER[ITEM_SIZE[self.dtype]])
        buffer = out.reshape(-1).view(np.uint8).data
        for shard, start, size in self._spans(first, last):
            files[shard].read_into(start, buffer[:size])
            buffer = buffer[size:]
        return out

    def write(self, files: Mapping[str, ShardFile], first: int, rows: Numbers) -> None:
        data = np.ascontiguousarray(rows).data.cast("B")
        for shard, start, size in self._spans(first, first + len(rows)):
            files[shard].write_at(start, data[:size])
            data = data[size:]

    def blocks(self) -> Iterator[tuple[int, int]]:
        """(first, last) of consecutive blocks of rows, each of at most `BLOCK` bytes."""
        step = max(1, BLOCK // (self.width * ITEM_SIZE[self.dtype]))
        for first in range(0, self.height, step):
            yield first, min(first + step, self.height)

    def _spans(self, first: int, last: int) -> Iterator[tuple[str, int, int]]:
        """(shard, start, size) of the stored bytes of rows ``first`` ... ``last``."""
        row = self.width * ITEM_SIZE[self.dtype]
        begin, end, offset = first * row, last * row, 0
        for piece in self.pieces:
            low, high = max(begin, offset), min(end, offset + piece.size)
            if low < high:
                yield piece.shard, piece.start + low - offset, high - low
            offset += piece.size


def read_rows(stored: StoredParameter, edit: TensorEdit, files: Mapping[str, ShardFile]) -> Tensor:
    """The rows of ``edit`` as they are on disk, in the stored dtype, (k, row_len)."""
    stored = _seen_by(edit, stored)
    if not _contiguous(stored, edit):
        return scan(stored, edit, files)[0]
    out = _blank(stored, edit)
    for index, count, at in _runs(edit):
        out[at : at + count] = stored.read(files, index, index + count)
    return torch.from_numpy(out).view(DTYPES[stored.dtype])


def write_rows(stored: StoredParameter, edit: TensorEdit, rows: Tensor, files: Mapping[str, ShardFile]) -> None:
    """Overwrite the rows of ``edit`` with ``rows`` (k, row_len)."""
    stored, new = _seen_by(edit, stored), bits(rows).numpy()
    if _contiguous(stored, edit):
        for index, count, at in _runs(edit):
            stored.write(files, index, new[at : at + count])
        return
    for first, last in stored.blocks():
        cuts = list(_cuts(stored, edit, first, last))
        if cuts:
            block = stored.read(files, first, last)
            for part, along, height, columns in cuts:
                block[height, columns] = new[part, along].T
            stored.write(files, first, block)


def scan(stored: StoredParameter, edit: TensorEdit, files: Mapping[str, ShardFile]) -> tuple[Tensor, str]:
    """(the rows of ``edit`` as stored, the SHA-256 that the parameter has with its ``before`` rows), in one pass."""
    stored, before, held = _seen_by(edit, stored), bits(edit.before).numpy(), _blank(stored, edit)
    state, indices, contiguous = hashlib.sha256(), edit.indices.numpy(), _contiguous(stored, edit)
    for first, last in stored.blocks():
        block = stored.read(files, first, last)
        if contiguous:
            low, high = np.searchsorted(indices, (first, last))
            places = indices[low:high] - first
            held[low:high] = block[places]
            block[places] = before[low:high]
        else:
            for part, along, height, columns in _cuts(stored, edit, first, last):
                held[part, along] = block[height, columns].T
                block[height, columns] = before[part, along].T
        state.update(block.data)
    return torch.from_numpy(held).view(DTYPES[stored.dtype]), state.hexdigest()


def _blank(stored: StoredParameter, edit: TensorEdit) -> Numbers:
    return np.empty(tuple(edit.before.shape), _INTEGER[ITEM_SIZE[stored.dtype]])


def _seen_by(edit: TensorEdit, stored: StoredParameter) -> StoredParameter:
    """Where every scalar is a row, the parameter is one long vector."""
    return replace(stored, shape=(math.prod(stored.shape),)) if edit.axis == EACH else stored


def _contiguous(stored: StoredParameter, edit: TensorEdit) -> bool:
    """Whether a row of the edit is a row of the array, rather than a column (of one expert)."""
    return len(stored.shape) == 1 or edit.axis == len(stored.shape) - 2


def _runs(edit: TensorEdit) -> Iterator[tuple[int, int, int]]:
    """(first index, how many consecutive ones, position of the first in the edit)."""
    indices = edit.indices.numpy()
    starts = np.flatnonzero(np.diff(indices, prepend=-2) != 1)
    for at, end in zip(starts, [*starts[1:], len(indices)], strict=True):
        yield int(indices[at]), int(end - at), int(at)


def _cuts(
    stored: StoredParameter, edit: TensorEdit, first: int, last: int
) -> Iterator[tuple[slice, slice, slice, Numbers]]:
    """Where a block of the array meets the touched columns of each expert (of the only one, for a matrix).

    Yields (this expert's part of the edit's rows, what of each lies in the block, its rows in the block, its columns).
    """
    indices, width = edit.indices.numpy(), stored.width
    tall = stored.shape[-2]  # rows of one expert
    for expert in range(first // tall, (last - 1) // tall + 1):
        low, high = (int(place) for place in np.searchsorted(indices, (expert * width, (expert + 1) * width)))
        if low < high:
            top = expert * tall
            begin, end = max(first, top), min(last, top + tall)
            columns = indices[low:high] - expert * width
            yield slice(low, high), slice(begin - top, end - top), slice(begin - first, end - first), columns
