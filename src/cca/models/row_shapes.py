"""The rows of a parameter by its shape alone, without torch; `cca.models.anatomy.weight_rows` says what a row is."""

from __future__ import annotations

import math
from collections.abc import Sequence

from cca.errors import CcaError

EACH = -1
"""The axis along which every scalar is a row."""
AXES = {1: (0,), 2: (0, 1, EACH), 3: (1, 2)}
"""Rank of a parameter -> the axes that rows may lie along."""
DTYPES = ("float64", "float32", "float16", "bfloat16")


def row_shape(shape: Sequence[int], axis: int) -> tuple[int, int]:
    """(number of rows, scalars in each) of a parameter of this shape."""
    total = math.prod(shape)
    rows = total if axis == EACH else shape[axis] * (shape[0] if len(shape) == 3 else 1)
    return rows, total // rows if rows else 0


def check_row_shapes(
    name: str,
    shape: Sequence[int],
    axis: int,
    indices: tuple[str, Sequence[int]],
    before: tuple[str, Sequence[int]],
    after: tuple[str, Sequence[int]],
) -> None:
    """Raise CcaError unless rows of these (dtype, shape) fit a parameter of ``shape`` along ``axis``."""
    if axis not in AXES.get(len(shape), ()):
        raise CcaError(f"{name}: a parameter of shape {list(shape)} has no rows along axis {axis}")
    if indices[0] != "int64" or len(indices[1]) != 1:
        raise CcaError(f"{name}: expected 1-D int64 indices, got {len(indices[1])}-D {indices[0]}")
    wanted = (indices[1][0], row_shape(shape, axis)[1])
    for what, (dtype, found) in (("before", before), ("after", after)):
        if tuple(found) != wanted:
            raise CcaError(f"{name}: expected {what!r} of shape {list(wanted)}, got {list(found)}")
        if dtype not in DTYPES:
            raise CcaError(f"{name}: expected {what!r} in float32, float16 or bfloat16, got {dtype}")
    if before[0] != after[0]:
        raise CcaError(f"{name}: 'before' is {before[0]}, 'after' {after[0]}; expected one dtype")


def check_range(name: str, shape: Sequence[int], axis: int, first: int, last: int) -> None:
    """Raise CcaError unless the row indices ``first`` ... ``last`` lie in a parameter of ``shape``."""
    count = row_shape(shape, axis)[0]
    if not 0 <= first <= last < count:
        raise CcaError(f"{name}: row indices must lie in 0 ... {count - 1}, got {first} ... {last}")
