"""A patched (or reverted) copy of a model folder, shard by shard; `cca.patches.in_place` needs no copy.

Every shard is copied by the operating system, then only the touched rows are written into the copy: in memory
are the patch and one block of one tensor. The copy is built under a hidden name and renamed when it is whole.
Untouched files are copied too, unless hard links are asked for: a link costs nothing, but a program that
later writes into the linked file changes both folders.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from cca.errors import CcaError
from cca.patches.checkpoint import JOURNALS, Checkpoint, open_checkpoint
from cca.patches.patch import Patch
from cca.patches.stored_rows import write_rows
from cca.patches.verify import STATES, Placed, find_side, place, touched_shards

# Weights in another form, which the patch does not reach and a server might prefer to the patched ones.
OTHER_WEIGHTS = ("*.safetensors", "*.bin", "*.bin.index.json", "*.pt", "*.pth", "*.gguf", "*.h5", "*.msgpack")
OTHER_WEIGHTS += ("*.onnx", "*.onnx_data", "original", "onnx")
NOT_COPIED = (".git", ".cache", *JOURNALS.values())


@dataclass(frozen=True)
class Written:
    """What `write_copy` did."""

    out: Path
    rewritten: list[str]  # shards with touched rows
    kept: list[str]  # shards without
    left_out: list[str]  # weights in other forms


def write_copy(model: Path, patch: Patch, out: Path, side: str = "after", link: bool = False) -> Written:
    """Write ``model`` with the rows of ``side`` to the new folder ``out``.

    ``side`` "after" applies the patch and demands the base, "before" reverts it and demands the patched
    model. ``link`` hard-links what is not touched. Raises CcaError, with nothing written, where the model is
    another or ``out`` is taken.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CcaError(f"{out}: expected a new folder, found one in use; name another")
    checkpoint = open_checkpoint(model)
    placed = place(patch, checkpoint)
    touched = touched_shards(placed)
    with checkpoint.open(touched) as files:
        if placed and find_side(patch, placed, files) == side:
            expected = STATES["before" if side == "after" else "after"]
            raise CcaError(f"{model}: is {STATES[side]} already; expected the {expected} model")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.partial")
    partial.mkdir(exist_ok=True)
    with locked(partial):
        try:
            left_out = _copy(checkpoint, partial, set(touched), link)
            write_side(Checkpoint(partial, checkpoint.shards, checkpoint.tensors), placed, side, sync=False)
            os.rename(partial, out)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    return Written(out, touched, sorted(set(checkpoint.shards) - set(touched)), left_out)


def write_side(checkpoint: Checkpoint, placed: list[Placed], side: str, sync: bool) -> None:
    """Overwrite every touched row with the patch's ``side``, whatever it holds now."""
    with checkpoint.open(touched_shards(placed), writable=True) as files:
        for item in placed:
            for stored in item.copies:
                write_rows(stored, item.edit, getattr(item.edit, side), files)
        for file in files.values():
            if sync:
                file.sync()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold ``folder`` against a second process; the lock, on the folder itself, ends with the process."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CcaError(f"{folder}: another process is writing it; wait for it to end") from error
        yield
    finally:
        os.close(descriptor)


def _copy(checkpoint: Checkpoint, partial: Path, touched: set[str], link: bool) -> list[str]:
    """Copy or link the whole folder; returns the names left out."""
    for stale in partial.iterdir():  # of a copy that was killed
        if stale.is_dir() and not stale.is_symlink():
            shutil.rmtree(stale)
        else:
            stale.unlink()
    left_out: list[str] = []
    for source in sorted(checkpoint.folder.iterdir()):
        name = source.name
        if name in NOT_COPIED:
            continue
        if name not in checkpoint.shards and any(fnmatch(name, pattern) for pattern in OTHER_WEIGHTS):
            left_out.append(name)
        elif source.is_dir():
            shutil.copytree(source, partial / name)
        else:
            _copy_file(source, partial / name, link and name not in touched)
    return left_out


def _copy_file(source: Path, target: Path, link: bool) -> None:
    if link:
        try:
            os.link(source.resolve(), target)
            return
        except OSError:  # another file system, or one without links: copied, as without the option
            target.unlink(missing_ok=True)
    shutil.copyfile(source, target)
