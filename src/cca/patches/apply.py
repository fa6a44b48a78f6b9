"""A patch and a model folder: verified against each other, written to a patched copy, or applied in place.

A copy is built under a hidden name: every shard is copied by the operating system, the touched rows are written into
it, all of it is flushed to the disk, and only then does the folder get its name. In memory are the patch and one block
of one tensor. Hard links for what does not change cost nothing, but a program that later writes into such a file
changes both folders.

An edit in place is safe against being killed at any point:

1. Everything is checked, and the touched shards are opened for writing, before anything is written.
2. A shard that shares its bytes with another folder (a hard link, a link into the hub's cache) gets its own.
3. The patch itself is written beside the shards as a journal, atomically. It holds the rows before and after,
   so from here on the edit can be finished whatever state the rows are in.
4. The rows are written and flushed to the disk, then the journal is removed.

The next call finds a journal if one was left, checks that all but the touched rows is still the base, and finishes the
edit: afterwards the folder is one of the two models, never a mix. Our other readers refuse a folder with a journal.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from cca.errors import CcaError
from cca.models.anatomy.weight_rows import same_bits
from cca.models.checkpoint import JOURNALS, Checkpoint, ShardFile, open_checkpoint
from cca.patches.folder_copy import copy_folder, locked, sync
from cca.patches.layout import MatchedEdit, match_edits
from cca.patches.patch import Patch, TensorEdit
from cca.patches.patch_file import digest, load_patch, save_patch
from cca.patches.stored_rows import StoredParameter, scan, write_rows

STATES = {"before": "base", "after": "patched"}
"""Side of the patch -> the name of a checkpoint that holds it."""
THREADS = min(4, os.cpu_count() or 1)
"""Tensors read and hashed at a time; both leave the interpreter free."""
OWN_COPY = ".cca-copy."
LEFT_OVER = (f"{OWN_COPY}*", "..cca-*.journal.*")
"""Copies and journals whose writing was interrupted."""


def verify(model: Path, patch: Patch) -> str:
    """Say whether the folder ``model`` is "base" or "patched". Raises CcaError where it is neither."""
    checkpoint = open_checkpoint(model)
    matched = match_edits(patch, checkpoint)
    with checkpoint.open(touched_shards(matched)) as files:
        return STATES[find_side(patch, matched, files)]


def find_side(patch: Patch, matched: Sequence[MatchedEdit], files: Mapping[str, ShardFile]) -> str:
    """The side of the patch, "before" or "after", that the checkpoint holds to the bit.

    Every touched tensor is read once: its rows are compared, and all else by the hash. Raises CcaError naming the
    first tensor that is another, or that is on another side than those before it. A patch without edits is "before".
    """
    found: dict[str, str] = {}
    for edit, copy, rows in check_untouched(patch, matched, files):
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


def check_untouched(
    patch: Patch, matched: Sequence[MatchedEdit], files: Mapping[str, ShardFile]
) -> Iterator[tuple[TensorEdit, StoredParameter, Tensor]]:
    """Yield (edit, stored copy, its touched rows) for each copy whose other rows are the base's.

    Raises CcaError for the first that differs there. Several tensors are read and hashed at a time.
    """
    copies = [(item.edit, copy) for item in matched for copy in item.copies]
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


@dataclass(frozen=True)
class Written:
    """The files of a copy that `write_copy` made."""

    out: Path
    rewritten: list[str]  # shards with touched rows
    kept: list[str]  # shards without
    other_weights: list[str]  # left out: weights in other forms
    outside: list[str]  # left out: links to files outside the model folder, and what is no file


def write_copy(model: Path, patch: Patch, out: Path, side: str = "after", link: bool = False) -> Written:
    """Write ``model`` with the rows of ``side`` to the new folder ``out``.

    ``side`` "after" applies the patch and demands the base, "before" reverts it and demands the patched
    model. ``link`` hard-links what is not touched. Raises CcaError, with nothing written, where the model is
    another, a row to write is not finite, or ``out`` is taken.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CcaError(f"{out}: expected a new folder, found one in use; name another")
    checkpoint, matched = _open_writable(model, patch, side)
    touched = touched_shards(matched)
    with checkpoint.open(touched) as files:
        if matched and find_side(patch, matched, files) == side:
            expected = STATES["before" if side == "after" else "after"]
            raise CcaError(f"{model}: is {STATES[side]} already; expected the {expected} model")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.partial")
    partial.mkdir(exist_ok=True)
    with locked(partial):
        try:
            others, outside = copy_folder(checkpoint, partial, set(touched), link)
            write_side(Checkpoint(partial, checkpoint.shards, checkpoint.tensors), matched, side)
            for path in [*partial.rglob("*"), partial]:
                sync(path)
            os.rename(partial, out)
            sync(out.parent)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    return Written(out, touched, sorted(set(checkpoint.shards) - set(touched)), others, outside)


def write_in_place(model: Path, patch: Patch, side: str = "after") -> str:
    """Make ``model`` hold the rows of ``side`` ("after" applies, "before" reverts).

    Finishes an interrupted edit first. Returns "written", "finished" (that was this very edit) or "already"
    (there was nothing to do). Raises CcaError, with nothing written, where the folder is neither the base nor
    the patched model, or a row to write is not finite.
    """
    if not model.is_dir():
        raise CcaError(f"{model}: expected a model folder, found {'a file' if model.exists() else 'nothing'}")
    with locked(model):
        if recover(model) == (digest(patch), side):
            return "finished"
        checkpoint, matched = _open_writable(model, patch, side)
        touched = touched_shards(matched)
        with checkpoint.open(touched, writable=True) as files:
            if not matched or find_side(patch, matched, files) == side:
                return "already"
        for shard in touched:
            _give_own_bytes(model / shard)
        save_patch(model / JOURNALS[side], patch)
        sync(model)
        _finish(model, matched, side)
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
        matched = match_edits(patch, checkpoint)
        with checkpoint.open(touched_shards(matched)) as files:
            try:
                for _ in check_untouched(patch, matched, files):
                    pass
            except CcaError as error:
                raise CcaError(f"{error}; weights were changed since {name} was left: remove it") from error
        _finish(model, matched, side)
        return digest(patch), side
    return None


def touched_shards(matched: Sequence[MatchedEdit]) -> list[str]:
    return sorted({shard for item in matched for copy in item.copies for shard in copy.shards})


def write_side(checkpoint: Checkpoint, matched: Sequence[MatchedEdit], side: str) -> None:
    """Overwrite every touched row with the patch's ``side``, whatever it holds now, and flush it to the disk."""
    with checkpoint.open(touched_shards(matched), writable=True) as files:
        for item in matched:
            for stored in item.copies:
                write_rows(stored, item.edit, getattr(item.edit, side), files)
        for file in files.values():
            file.sync()


def _open_writable(model: Path, patch: Patch, side: str) -> tuple[Checkpoint, list[MatchedEdit]]:
    for edit in patch.edits if side == "after" else ():
        if not bool(edit.after.isfinite().all()):
            raise CcaError(
                f"{edit.parameter}: the patch would write weights that are infinite or NaN; fetch or make it again"
            )
    checkpoint = open_checkpoint(model)
    return checkpoint, match_edits(patch, checkpoint)


def _finish(model: Path, matched: list[MatchedEdit], side: str) -> None:
    """Write the rows, whatever they are now, and remove the journal."""
    write_side(open_checkpoint(model, unfinished=True), matched, side)
    os.unlink(model / JOURNALS[side])
    sync(model)


def _give_own_bytes(shard: Path) -> None:
    """Replace a ``shard`` that shares its bytes with another folder by a copy, with the mode it has."""
    if not shard.is_symlink() and shard.stat().st_nlink == 1:
        return
    copy = shard.with_name(OWN_COPY + shard.name)
    shutil.copyfile(shard, copy)
    shutil.copymode(shard, copy)
    sync(copy)
    os.replace(copy, shard)
