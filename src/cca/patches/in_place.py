"""A model folder patched or reverted where it lies, safe against being killed at any point.

1. Everything is checked, and the touched shards are opened for writing, before anything is written.
2. A shard that shares its bytes with another folder (a hard link, a link into the hub's cache) gets its own.
3. The patch itself is written beside the shards as a journal, atomically. It holds the rows before and after,
   so from here on the edit can be finished whatever state the rows are in.
4. The rows are written and flushed to the disk, then the journal is removed.

The next call finds a journal if one was left, checks that all but the touched rows is still the base, and
finishes the edit: afterwards the folder is one of the two models, never a mix. Our other readers refuse a
folder with a journal.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from cca.errors import CcaError
from cca.patches.checkpoint import JOURNALS, open_checkpoint
from cca.patches.merge import locked, write_side
from cca.patches.patch import Patch
from cca.patches.patch_file import digest, load_patch, save_patch
from cca.patches.verify import Placed, check_whole, find_side, place, touched_shards

OWN_COPY = ".cca-copy."
LEFT_OVER = (f"{OWN_COPY}*", "..cca-*.journal.*")  # copies and journals whose writing was interrupted


def write_in_place(model: Path, patch: Patch, side: str = "after") -> str:
    """Make ``model`` hold the rows of ``side`` ("after" applies, "before" reverts).

    Finishes an interrupted edit first. Returns "written", "finished" (that was this very edit) or "already"
    (there was nothing to do). Raises CcaError, with nothing written, where the folder is neither the base nor
    the patched model.
    """
    if not model.is_dir():
        raise CcaError(f"{model}: expected a model folder, found {'a file' if model.exists() else 'nothing'}")
    with locked(model):
        if recover(model) == (digest(patch), side):
            return "finished"
        checkpoint = open_checkpoint(model)
        placed = place(patch, checkpoint)
        touched = touched_shards(placed)
        with checkpoint.open(touched, writable=True) as files:
            if not placed or find_side(patch, placed, files) == side:
                return "already"
        for shard in touched:
            _own(model / shard)
        save_patch(model / JOURNALS[side], patch)
        _sync(model)
        _finish(model, placed, side)
    return "written"


def recover(model: Path) -> tuple[str, str] | None:
    """Finish the edit that was interrupted in ``model``, if any; returns (digest of its patch, its side).

    The caller holds the lock. Raises CcaError where the weights were changed by others since.
    """
    for pattern in LEFT_OVER:
        for stale in model.glob(pattern):
            stale.unlink()
    for side, name in JOURNALS.items():
        if not (model / name).exists():
            continue
        patch = load_patch(model / name)
        checkpoint = open_checkpoint(model, unfinished=True)
        placed = place(patch, checkpoint)
        with checkpoint.open(touched_shards(placed)) as files:
            try:
                for _ in check_whole(patch, placed, files):
                    pass
            except CcaError as error:
                raise CcaError(f"{error}; weights were changed since {name} was left: remove it") from error
        _finish(model, placed, side)
        return digest(patch), side
    return None


def _finish(model: Path, placed: list[Placed], side: str) -> None:
    """Write the rows, whatever they are now, and remove the journal."""
    write_side(open_checkpoint(model, unfinished=True), placed, side, sync=True)
    os.unlink(model / JOURNALS[side])
    _sync(model)


def _own(shard: Path) -> None:
    """Give ``shard`` bytes that no other folder shares."""
    if not shard.is_symlink() and shard.stat().st_nlink == 1:
        return
    copy = shard.with_name(OWN_COPY + shard.name)
    shutil.copyfile(shard, copy)
    _sync(copy)
    os.replace(copy, shard)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
