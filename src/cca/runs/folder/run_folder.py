"""The folder of a run: its lock, and its manifest, which records what was run, on what and with what.

A stage is done when its last file is there. Files appear whole (`cca.files`) and logs grow by whole chunks
(`cca.runs.folder.row_log`), so the folder can be resumed whenever its process dies.

The lock is the system's (flock): a crash frees it. The note of the owner next to it is for people and `cca status`; a
killed process is recognised by its process id and start time.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import Field, ValidationError

from cca.errors import CcaError
from cca.files import read_json, read_sealed, write_json, write_sealed
from cca.runs.config import Config, load_config, make_config
from cca.runs.costs import FILE as TIMING
from cca.runs.folder.row_log import MEASUREMENTS
from cca.runs.folder.stage_files import STAGES, UNDER_WAY
from cca.runs.progress import CURRENT, LOG, now
from cca.section import Section

FORMAT, VERSION = "cca.run", 1
MANIFEST, LOCK, NOTE = "manifest.json", ".lock", ".owner.json"
ENGINE = ("engine", "vllm", "ray", "device")
"""Keys that say what computes, and where; they may change during a run, as hardware does."""
PAGES = ("report.json", "report.html", "compare.json", "compare.html")
WRITTEN_WHOLE = {
    MANIFEST, NOTE, CURRENT, TIMING, MEASUREMENTS, *PAGES, *UNDER_WAY,
    *(name for stage in STAGES.values() for name in (*stage.files, *stage.says)),
}  # fmt: skip
"""Names of the files that cca replaces whole, through a temporary file (`cca.files.write_bytes`)."""
LEFTOVER = re.compile(r"\.(.+)\.[a-z0-9_]{8}")


class Owner(Section):
    """A process that holds a run folder. ``started`` tells it from a later one with the same id (Linux only)."""

    process: int = Field(gt=0, lt=1 << 31, strict=True)
    host: str
    since: str
    started: str | None

    def __str__(self) -> str:
        return f"process {self.process} on {self.host} since {self.since}"

    @property
    def alive(self) -> bool | None:
        """True while the process runs; None when it is on another machine."""
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
        return Owner(process=os.getpid(), host=platform.node(), since=now(), started=_started(os.getpid()))

    @staticmethod
    def of(folder: Path) -> Owner | None:
        """The owner by the note in ``folder``; None without a readable note."""
        try:
            return Owner.model_validate(read_json(folder / NOTE))
        except (CcaError, ValidationError):
            return None


class RunFolder:
    """A run folder, locked by this process while it is open as a context manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.killed: Owner | None = None
        """The owner that was killed while it held the lock, if there was one."""
        self._made = False
        self._lock = FileLock(path / LOCK)

    def __enter__(self) -> RunFolder:
        """Raises CcaError naming the owner when another process holds it, and when it cannot be written to."""
        self._made = not self.path.exists()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
            self.killed = Owner.of(self.path)
            write_json(self / NOTE, Owner.me().model_dump())
        except Timeout as error:
            who = Owner.of(self.path) or "another process"
            raise CcaError(f"{self.path}: in use by {who}; wait for it or take another folder") from error
        except FileExistsError as error:
            raise CcaError(f"{self.path}: expected a folder for the run, got a file; take another 'out'") from error
        except (OSError, NotImplementedError) as error:
            self._lock.release()
            reason = getattr(error, "strerror", None) or str(error)
            raise CcaError(f"{self.path}: cannot be written to ({reason}); take another folder") from error
        return self

    def __exit__(self, *raised: Any) -> None:
        with suppress(OSError):  # on a folder that became read-only the note of a dead process says the same
            (self / NOTE).unlink(missing_ok=True)
        self._lock.release()
        if self._made and not self.begun and all(_ours(entry.name) for entry in self.path.iterdir()):
            shutil.rmtree(self.path)  # nothing came of it: a model or a task that cannot be used

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @property
    def begun(self) -> bool:
        return (self / MANIFEST).exists()

    def check_new(self) -> None:
        """Raises CcaError when the folder is no run's and holds files that cca did not write."""
        if self.begun or not self.path.is_dir():
            return
        foreign = sorted(entry.name for entry in self.path.iterdir() if not _ours(entry.name))
        if foreign:
            raise CcaError(f"{self.path}: expected a new folder or a run's, found {foreign[0]!r} in it")

    def remove_leftovers(self) -> None:
        """Remove the temporary files of a killed process (`cca.files`): ``.NAME.xxxxxxxx``, for names that cca writes.

        Only for a folder that was checked to be new or a run's.
        """
        for entry in self.path.iterdir():
            match = LEFTOVER.fullmatch(entry.name)
            if match and match[1] in WRITTEN_WHOLE and entry.is_file() and not entry.is_symlink():
                entry.unlink(missing_ok=True)

    def begin(self, config: Config, fingerprints: Mapping[str, str], device: str | None = None, **more: Any) -> None:
        """Write the manifest of a new run of ``config`` on this model and data; the model is on ``device``."""
        from cca.runs.folder.provenance import provenance

        whole = {
            **provenance(device),
            "config": without_out(config),
            "engine": config.model_dump(mode="json", include=set(ENGINE)),
            "given": config.model_dump(mode="json", exclude_unset=True, exclude={"out"}),
            "fingerprints": dict(fingerprints),
            **more,
        }
        write_sealed(self / MANIFEST, FORMAT, VERSION, whole)

    def check_config(self, config: Config) -> None:
        """Raises CcaError naming the keys that differ from those this run began with."""
        changed = sorted(differences(without_out(self.config()), without_out(config)))
        if changed:
            raise CcaError(
                f"{self.path}: is a run with other {', '.join(changed)}; set them back, or add --fork NEW_DIR to go on "
                "in a new folder that reuses every stage that is still valid"
            )

    def check_fingerprints(self, fingerprints: Mapping[str, str]) -> None:
        """Raises CcaError naming the parts of model and data that changed since this run began."""
        known = self.manifest()["fingerprints"]
        changed = [what for what, expected in known.items() if fingerprints.get(what) != expected]
        if changed:
            raise CcaError(
                f"{self.path}: its {', '.join(changed)} changed since this run began; restore it, take another out, "
                "or add --fork NEW_DIR to cca run"
            )

    def manifest(self) -> dict[str, Any]:
        """Raises CcaError when there is no manifest or it is damaged."""
        manifest = read_sealed(self / MANIFEST, FORMAT, VERSION)
        for part in ("config", "fingerprints", "versions"):
            if not isinstance(manifest.get(part), dict):
                raise CcaError(f"{self / MANIFEST}: expected an object {part!r}, got {manifest.get(part)!r:.80}")
        return manifest

    def note(self, text: str) -> None:
        """Add to the manifest a note for readers of the results (such as a batch that was halved)."""
        manifest = self.manifest()
        if text not in manifest.get("notes", []):
            manifest["notes"] = [*manifest.get("notes", []), text]
            write_sealed(self / MANIFEST, FORMAT, VERSION, manifest)

    def config(self) -> Config:
        """The configuration this run was started with."""
        manifest = self.manifest()
        return make_config({**manifest["config"], **manifest.get("engine", {}), "out": str(self.path)})


def without_out(config: Config) -> dict[str, Any]:
    """The configuration without keys that change no result: folder, trackers, sharding and engine."""
    return config.model_dump(mode="json", exclude={"out", "trackers", "sharding", *ENGINE})


def differences(old: Any, new: Any, where: str = "") -> set[str]:
    """Dotted names of the keys whose values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = old.keys() | new.keys()
        return set().union(*(differences(old.get(k), new.get(k), f"{where}.{k}" if where else k) for k in keys), set())
    return set() if old == new else {where}


def config_at(where: Path, overrides: Sequence[str]) -> Config:
    """The configuration of the run at ``where``: a run folder, or the run.yaml of a new run.

    Raises CcaError when there is none, or it would be changed.
    """
    if not where.is_dir():
        return load_config(where, overrides)
    if overrides:
        raise CcaError(f"{where}: a run keeps its configuration; use --set with a run.yaml and a new 'out'")
    return RunFolder(folder_of(where)).config()


def folder_of(where: Path) -> Path:
    """The run folder at ``where``, or the one that a run.yaml names. Raises CcaError when no run has begun there."""
    folder = where if where.is_dir() else load_config(where).out
    if not (folder / MANIFEST).is_file():
        raise CcaError(f"{folder}: expected a run folder (with {MANIFEST}), got none; `cca run` begins one")
    return folder


def _ours(name: str) -> bool:
    return name.startswith(".") or name == LOG


def _started(process: int) -> str | None:
    """The start time of a process in clock ticks since boot; None where the system does not say."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return stat.rpartition(")")[2].split()[19]
