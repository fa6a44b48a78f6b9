"""The run folder of the processes that do not lead: a copy of the first one's, in a place of its own.

Every process of a run takes every decision alike, and what is done already is among the grounds: each must see the same
files. The first process shows its folder once, when it opens; from then on all write the same. So the stages know
nothing of other processes, a file system shared between machines is not needed, and only the first process holds the
lock, writes the run folder and talks.
"""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cca import distributed
from cca.errors import CcaError
from cca.files import write_bytes
from cca.runs.config.config import Config
from cca.runs.folder.run_folder import RunDirectory
from cca.runs.progress.interrupts import Interrupts
from cca.runs.progress.narrator import Silent
from cca.runs.session import Session

ITS_OWN = ("run.log", "report.json", "report.html", "plan.json")
"""Files of a run folder that no stage reads."""


@contextmanager
def replica_session(config: Config) -> Iterator[Session]:
    """A session in a replica of the folder that the first process holds. Raises CcaError for another model or data."""
    with (
        tempfile.TemporaryDirectory(prefix="cca-") as place,
        RunDirectory(Path(place)) as folder,
        Interrupts() as interrupts,
    ):
        session = Session(config.model_copy(update={"out": folder.path}), folder, Silent(), interrupts)
        _ = (
            session.anatomy
        )  # as the first does: with a sharded model every forward pass is one of all processes
        found = session.fingerprints
        interrupts.check()
        receive_folder(folder.path)
        try:
            folder.check_fingerprints(found)
        except CcaError as error:
            raise CcaError(
                f"process {distributed.rank()}: expected the model and data of process 0, got others "
                f"({str(error).partition(': its ')[2].partition(' changed')[0]}); give all machines the same files"
            ) from error
        yield session


def show_folder(folder: Path) -> None:
    """Let the other processes have the files of the run folder."""
    if distributed.size() == 1:
        return
    files = {
        entry.name: base64.b64encode(entry.read_bytes()).decode()
        for entry in sorted(folder.iterdir())
        if entry.is_file() and not entry.name.startswith(".") and entry.name not in ITS_OWN
    }
    distributed.broadcast_bytes(json.dumps(files).encode())


def as_the_first_has_it(path: Path) -> None:
    """Give this file of the run folder the content that the first process's has.

    For what each process computes by itself: devices need not round alike, and everything later rests on it.
    """
    data = distributed.broadcast_bytes(path.read_bytes())
    if not distributed.is_main():
        write_bytes(path, data)


def receive_folder(folder: Path) -> None:
    for name, data in json.loads(distributed.broadcast_bytes(b"")).items():
        write_bytes(folder / name, base64.b64decode(data))
