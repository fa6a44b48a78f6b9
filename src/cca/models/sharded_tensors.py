"""A weight that is sharded over the processes of a run: read whole, written by each process in its own part.

Sharded weights are DTensors along the first axis, as FSDP2 makes them (`cca.models.sharding`).
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TypeGuard

from torch import Tensor

from cca import distributed

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


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
    inner = {1: 1, 2: 1 if axis == 0 else shape[1], 3: shape[axis]}[tensor.dim()]
    positions = indices // inner
    here = (positions >= low) & (positions < high)
    return local, indices[here] - low * inner, rows[here.to(rows.device)]
