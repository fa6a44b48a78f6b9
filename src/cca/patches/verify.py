"""Whether a checkpoint is a patch's base, patched with it, or is another. Only touched tensors are read."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from cca.errors import CcaError
from cca.models.bits import DTYPES, dtype_name, same_bits
from cca.patches.checkpoint import Checkpoint, ShardFile, open_checkpoint
from cca.patches.layout import Layout
from cca.patches.patch import Patch, TensorEdit
from cca.patches.stored_rows import StoredParameter, scan

STATES = {"before": "base", "after": "patched"}  # side of the patch -> what a checkpoint that holds it is

THREADS = min(4, os.cpu_count() or 1)  # reading and hashing both leave the interpreter free


@dataclass(frozen=True)
class Placed:
    """An edit and every copy of its parameter in one checkpoint."""

    edit: TensorEdit
    copies: list[StoredParameter]


def place(patch: Patch, checkpoint: Checkpoint) -> list[Placed]:
    """Where each edit goes. Raises CcaError for the first parameter that is absent, or of another kind."""
    layout = Layout(checkpoint)
    placed: list[Placed] = []
    for edit in patch.edits:
        tied = patch.tied.get(edit.parameter, [])
        copies = layout.find(edit.parameter, patch.base_shapes[edit.parameter], tied)
        for copy in copies:
            if DTYPES.get(copy.dtype) != edit.before.dtype:
                raise CcaError(
                    f"{copy.stored_name}: the patch is {dtype_name(edit.before)}, {checkpoint.folder} stores "
                    f"{copy.dtype}; make the patch on the model loaded in the checkpoint's own dtype"
                )
        placed.append(Placed(edit, copies))
    return placed


def touched_shards(placed: Sequence[Placed]) -> list[str]:
    return sorted({shard for item in placed for copy in item.copies for shard in copy.shards})


def find_side(patch: Patch, placed: Sequence[Placed], files: Mapping[str, ShardFile]) -> str:
    """The side of the patch, "before" or "after", that the checkpoint holds to the bit.

    Every touched tensor is read once: its rows are compared, and all else by the hash. Raises CcaError naming the
    first tensor that is another, or that is on another side than those before it. A patch without edits is "before".
    """
    found: dict[str, str] = {}
    for edit, copy, rows in check_whole(patch, placed, files):
        side = next((side for side in STATES if same_bits(rows, getattr(edit, side))), None)
        if side is None:
            raise CcaError(
                f"{copy.stored_name}: its rows are neither the patch's 'before' nor its 'after'; "
                f"the patch was made on {patch.base}"
            )
        found[copy.stored_name] = side
        first = next(iter(found))
        if found[first] != side:
            raise CcaError(
                f"{copy.stored_name}: is {STATES[side]}, but {first} is {STATES[found[first]]}; "
                f"fetch {patch.base} again"
            )
    return next(iter(found.values()), "before")


def check_whole(
    patch: Patch, placed: Sequence[Placed], files: Mapping[str, ShardFile]
) -> Iterator[tuple[TensorEdit, StoredParameter, Tensor]]:
    """Yield (edit, stored copy, its touched rows) for each copy, all else in it being the base's.

    Raises CcaError for the first that differs there. Several tensors are read and hashed at a time.
    """
    copies = [(item.edit, copy) for item in placed for copy in item.copies]
    with ThreadPoolExecutor(THREADS) as pool:
        scans = pool.map(lambda pair: scan(pair[1], pair[0], files), copies)
        try:
            for (edit, copy), (rows, hashed) in zip(copies, scans, strict=True):
                if hashed != patch.base_hashes[edit.parameter]:
                    raise CcaError(
                        f"{copy.stored_name}: differs from the patch's base outside the touched rows; "
                        f"the patch was made on {patch.base}"
                    )
                yield edit, copy, rows
        finally:
            pool.shutdown(cancel_futures=True)


def verify(model: Path, patch: Patch) -> str:
    """Say whether the folder ``model`` is "base" or "patched". Raises CcaError where it is neither."""
    checkpoint = open_checkpoint(model)
    placed = place(patch, checkpoint)
    with checkpoint.open(touched_shards(placed)) as files:
        return STATES[find_side(patch, placed, files)]
