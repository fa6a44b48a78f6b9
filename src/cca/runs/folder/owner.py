"""Who holds a run folder: the lock, the note its owner leaves beside it, and how to tell whether the owner lives.

The lock is the system's (flock), so a crash frees it. The note is for people and for `cca status`; one left behind by
a process that was killed is recognised by its process id and start time, and taken over.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from cca.errors import CcaError
from cca.files import read_json, write_json

LOCK, NOTE = ".lock", ".owner.json"


@dataclass(frozen=True)
class Owner:
    """``started`` tells a process from a later one with the same id, where the system says (Linux)."""

    process: int
    host: str
    since: str
    started: str | None

    def __str__(self) -> str:
        return f"process {self.process} on {self.host} since {self.since}"

    @property
    def alive(self) -> bool | None:
        """Whether the process still runs; None when it is another host's."""
        if self.host != platform.node():
            return None
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return self.started is None or self.started == _started(self.process)

    @staticmethod
    def me() -> Owner:
        return Owner(os.getpid(), platform.node(), now(), _started(os.getpid()))

    @staticmethod
    def of(folder: Path) -> Owner | None:
        """Who says to hold ``folder``; None when nobody does, or the note is not readable."""
        try:
            note = read_json(folder / NOTE)
        except CcaError:
            return None
        kinds = {"process": int, "host": str, "since": str, "started": str | None}
        if not isinstance(note, dict) or note.keys() != kinds.keys():
            return None
        sound = (
            all(isinstance(note[name], kind) for name, kind in kinds.items())
            and 0 < note["process"] < 1 << 31
        )
        return Owner(**note) if sound else None


@contextmanager
def held(folder: Path) -> Iterator[Owner | None]:
    """Hold ``folder`` alone. Gives the owner that was killed while holding it, if there was one.

    Raises CcaError naming the owner when another process holds it, and when it cannot be written to.
    """
    lock = FileLock(folder / LOCK)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        owner = Owner.of(folder)
        who = str(owner) if owner else "another process"
        raise CcaError(f"{folder}: in use by {who}; wait for it or take another folder") from error
    except FileExistsError as error:
        raise CcaError(f"{folder}: expected a folder for the run, got a file; take another 'out'") from error
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise CcaError(f"{folder}: cannot be written to ({reason}); take another folder") from error
    try:
        killed = Owner.of(folder)
        write_json(folder / NOTE, asdict(Owner.me()))
        yield killed
    finally:
        with suppress(OSError):  # on a folder that became read-only the note of a dead process says the same
            (folder / NOTE).unlink(missing_ok=True)
        lock.release()


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _started(process: int) -> str | None:
    """When a process began, in the system's own count; None where it does not say."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return stat.rpartition(")")[2].split()[19]
