"""Copies of a model folder: only files that are its own, with the modes of the originals and under a lock."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

from cca.errors import CcaError
from cca.models.checkpoint import JOURNALS, Checkpoint

OTHER_WEIGHTS = ("*.safetensors", "*.index.json", "*.bin", "*.pt", "*.pth", "*.gguf", "*.h5", "*.msgpack")
OTHER_WEIGHTS += ("*.onnx", "*.onnx_data", "original", "onnx")
"""Weights in another form, which the patch does not reach and a server might prefer to the patched ones."""
NOT_COPIED = (".git", ".cache", *JOURNALS.values())


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
