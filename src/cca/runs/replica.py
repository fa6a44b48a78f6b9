"""The run folder in the processes that do not lead: a copy of the first one's, in a temporary folder.

All processes must make the same decisions, so all need the same view of the finished work. The first process sends its
folder once, when it opens; from then on all write the same files. So the stages know nothing of other processes, no
shared file system is needed, and only the first process holds the lock, writes the run folder and shows progress.
"""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from cca import distributed
from cca.errors import CcaError
from cca.files import write_bytes
from cca.runs.folder.run_folder import PAGES, RunFolder
from cca.runs.progress import LOG

NOT_READ = (LOG, *PAGES)
"""Files of a run folder that no stage reads."""


@contextmanager
def replica_folder() -> Iterator[RunFolder]:
    """A temporary run folder for this process."""
    with tempfile.TemporaryDirectory(prefix="cca-") as temporary, RunFolder(Path(temporary)) as folder:
        yield folder


def send_folder(folder: Path) -> None:
    """Send the files of the run folder to the other processes."""
    if distributed.size() == 1:
        return
    files = {
        entry.name: base64.b64encode(entry.read_bytes()).decode()
        for entry in sorted(folder.iterdir())
        if entry.is_file() and not entry.name.startswith(".") and entry.name not in NOT_READ
    }
    distributed.broadcast_bytes(json.dumps(files).encode())


def receive_folder(folder: RunFolder, fingerprints: Mapping[str, str]) -> None:
    """Receive the files that `send_folder` sends. Raises CcaError where this process has another model or data."""
    for name, data in json.loads(distributed.broadcast_bytes(b"")).items():
        write_bytes(folder / name, base64.b64decode(data))
    try:
        folder.check_fingerprints(fingerprints)
    except CcaError as error:
        raise CcaError(
            f"process {distributed.rank()}: expected the model and data of process 0, got others "
            f"({str(error).partition(': its ')[2].partition(' changed')[0]}); give all machines the same files"
        ) from error


def broadcast_file(path: Path) -> None:
    """Replace this file of the run folder by the first process's.

    For results that each process computes by itself: devices round differently, and all later stages rest on them.
    """
    data = distributed.broadcast_bytes(path.read_bytes())
    if not distributed.is_main():
        write_bytes(path, data)
