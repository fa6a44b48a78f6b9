"""A patch and a model folder: verified against each other, written to a patched copy, or applied in place.

A copy is built under a hidden name: every shard is copied by the operating system, the touched rows are written into
it, all of it is flushed to the disk, and only then does the folder get its name. In memory are the patch and one block
of one tensor. Hard links for what does not change cost nothing, but a program that later writes into such a file
changes both folders.

An edit in place is safe against being killed at any point:

1. Everything is checked, and the touched shards are opened for writing, before anything is written.
2. A shard that shares its bytes with another folder (a hard link, a link into the hub's cache) gets its own.
3. The patch itself is written next to the shards as a journal, atomically. It holds the rows before and after,
   so from here on the edit can be finished whatever state the rows are in.
4. The rows are written and flushed to the disk, then the journal is removed.

The next call finds a journal if one was left, checks that all but the touched rows is still the base, and finishes the
edit: afterwards the folder is one of the two models, never a mix. Our other readers refuse a folder with a journal.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from cca.errors import CcaError
from cca.models.checkpoint import JOURNALS, Checkpoint, open_checkpoint
from cca.patches.layout import STATES, Match, check_untouched, find_side, match_edits, touched_shards
from cca.patches.patch import Patch
from cca.patches.patch_file import digest, load_patch, save_patch
from cca.patches.stored_rows import write_rows

OWN_COPY = ".cca-copy."
LEFT_OVER = (f"{OWN_COPY}*", "..cca-*.journal.*")
"""Copies and journals whose writing was interrupted."""
OTHER_WEIGHTS = ("*.safetensors", "*.index.json", "*.bin", "*.pt", "*.pth", "*.gguf", "*.h5", "*.msgpack")
OTHER_WEIGHTS += ("*.onnx", "*.onnx_data", "original", "onnx")
"""Weights in another form, which the patch does not reach and a server might prefer to the patched ones."""
NOT_COPIED = (".git", ".cache", *JOURNALS.values())


def verify(model: Path, patch: Patch) -> str:
    """Say whether the folder ``model`` is "base" or "patched". Raises CcaError where it is neither."""
    checkpoint = open_checkpoint(model)
    matched = match_edits(patch, checkpoint)
    with checkpoint.open(touched_shards(matched)) as files:
        return STATES[find_side(patch, matched, files)]


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
    check_new_folder(out)
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
    for stale in (path for pattern in LEFT_OVER for path in model.glob(pattern)):
        stale.unlink()
    for side, name in JOURNALS.items():
        if not (model / name).exists():
            continue
        patch = load_patch(model / name)
        checkpoint = open_checkpoint(model, unfinished=True)
        matched = match_edits(patch, checkpoint)
        with checkpoint.open(touched_shards(matched)) as files:
            try:
                deque(check_untouched(patch, matched, files), maxlen=0)
            except CcaError as error:
                raise CcaError(f"{error}; weights were changed since {name} was left: remove it") from error
        _finish(model, matched, side)
        return digest(patch), side
    return None


def check_new_folder(out: Path) -> None:
    """Raise CcaError unless ``out`` is absent or an empty folder."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CcaError(f"{out}: expected a new folder, found one in use; name another")


def write_side(checkpoint: Checkpoint, matched: Sequence[Match], side: str) -> None:
    """Overwrite every touched row with the patch's ``side``, whatever it holds now, and flush it to the disk."""
    with checkpoint.open(touched_shards(matched), writable=True) as files:
        for match in matched:
            write_rows(match.stored, match.edit, getattr(match.edit, side), files)
        for file in files.values():
            file.sync()


def _open_writable(model: Path, patch: Patch, side: str) -> tuple[Checkpoint, list[Match]]:
    for edit in patch.edits if side == "after" else ():
        if not bool(edit.after.isfinite().all()):
            raise CcaError(
                f"{edit.parameter}: the patch would write weights that are infinite or NaN; fetch or make it again"
            )
    checkpoint = open_checkpoint(model)
    return checkpoint, match_edits(patch, checkpoint)


def _finish(model: Path, matched: list[Match], side: str) -> None:
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


def copy_folder(checkpoint: Checkpoint, partial: Path, touched: set[str], link: bool) -> tuple[list[str], list[str]]:
    """Copy the model folder to ``partial``, with hard links instead if ``link``, but for the shards ``touched``.

    Returns the names left out: (weights in other forms, links to files outside the folder and what is no file).
    """
    for stale in partial.iterdir():  # of a copy that was killed
        if stale.is_dir() and not stale.is_symlink():
            shutil.rmtree(stale)
        else:
            stale.unlink()
    others: list[str] = []
    outside: list[str] = []

    def copy(source: Path, target: Path) -> None:
        name = str(source.relative_to(checkpoint.folder))
        if source.is_dir() and not source.is_symlink():
            target.mkdir(exist_ok=True)
            for inner in sorted(source.iterdir()):
                copy(inner, target / inner.name)
        elif name in checkpoint.shards or (source.is_file() and _belongs(source, checkpoint.folder)):
            _copy_file(source, target, link and name not in touched)
        else:
            outside.append(name)

    for source in sorted(checkpoint.folder.iterdir()):
        name = source.name
        if name in NOT_COPIED:
            continue
        if name not in checkpoint.weight_files and any(fnmatch(name, pattern) for pattern in OTHER_WEIGHTS):
            others.append(name)
        else:
            copy(source, partial / name)
    return others, outside


def _belongs(source: Path, folder: Path) -> bool:
    """True for a file inside the model folder, or in the store of the hub's cache that the folder links to."""
    home = folder.resolve()
    homes = [home, home.parents[1] / "blobs"] if home.parent.name == "snapshots" else [home]
    return any(source.resolve().is_relative_to(home) for home in homes)


def _copy_file(source: Path, target: Path, link: bool) -> None:
    if link:
        try:
            os.link(source.resolve(), target)
            return
        except OSError:  # another file system, or one without links: copied, as without the option
            target.unlink(missing_ok=True)
    # Made with the mode of the original, from which the system takes what the umask forbids.
    mode = stat.S_IMODE(source.stat().st_mode) & 0o777 | 0o600
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode))
    shutil.copyfile(source, target)


def sync(path: Path) -> None:
    """Flush a file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
