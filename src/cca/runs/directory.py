"""The folder of a run: its lock, its manifest, and logs that grow by whole chunks.

A stage is done when its file is there, and files appear whole (`cca.files`). Logs are the exception: they are
appended to, one chunk of rows a write, and a chunk that a kill cut short is dropped and owed again.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from cca.errors import CcaError
from cca.files import Row, check_version, fingerprint, read_json, read_jsonl, write_json
from cca.runs.config import Config, make_config

FORMAT, VERSION = "cca.run", 1
MANIFEST = "manifest.json"
PACKAGES = ("cca", "torch", "transformers", "tokenizers", "safetensors", "peft", "numpy")


class RunDirectory:
    """A run folder held by this process, as a context manager. The lock is the system's: a crash frees it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = FileLock(path / ".lock")

    def __enter__(self) -> RunDirectory:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise CcaError(
                f"{self.path}: in use by {self._owner()}; wait for it or take another folder"
            ) from error
        except OSError as error:
            raise CcaError(
                f"{self.path}: cannot be written to ({error.strerror}); take another folder"
            ) from error
        write_json(
            self.path / ".owner.json", {"process": os.getpid(), "host": platform.node(), "since": _now()}
        )
        return self

    def __exit__(self, *_: object) -> None:
        (self.path / ".owner.json").unlink(missing_ok=True)
        self._lock.release()

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def bind(self, config: Config, fingerprints: Mapping[str, str]) -> None:
        """Make this the folder of ``config`` on this model and data, or check that it already is.

        Raises CcaError naming the keys that differ, and for a folder that holds something else.
        """
        given = _without_out(config)
        if not (self / MANIFEST).exists():
            foreign = [entry.name for entry in self.path.iterdir() if not entry.name.startswith(".")]
            if foreign:
                raise CcaError(
                    f"{self.path}: expected a new folder or a run's, found {sorted(foreign)[0]!r} in it"
                )
            write_json(self / MANIFEST, {**_manifest(), "config": given, "fingerprints": dict(fingerprints)})
            return
        manifest = self.manifest()
        changed = sorted(_differences(manifest["config"], given))
        if changed:
            raise CcaError(
                f"{self.path}: is a run with other {', '.join(changed)}; set them back or take a new 'out'"
            )
        for what, expected in manifest["fingerprints"].items():
            if fingerprints.get(what) != expected:
                raise CcaError(f"{self.path}: its {what} has changed since this run began; take a new 'out'")

    def manifest(self) -> dict[str, Any]:
        path = self / MANIFEST
        manifest = read_json(path)
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise CcaError(f"{path}: expected a run's manifest, got something else")
        check_version(str(path), manifest.get("version"), VERSION)
        if not isinstance(manifest.get("config"), dict) or not isinstance(manifest.get("fingerprints"), dict):
            raise CcaError(f"{path}: expected 'config' and 'fingerprints', one is missing")
        return manifest

    def config(self) -> Config:
        """The configuration this run was started with."""
        return make_config({**self.manifest()["config"], "out": str(self.path)})

    def _owner(self) -> str:
        try:
            owner = read_json(self / ".owner.json")
            return f"process {owner['process']} on {owner['host']} since {owner['since']}"
        except (CcaError, KeyError, TypeError):
            return "another process"


class ChunkLog:
    """A JSONL file that grows by chunks of ``chunk`` rows; the header row says what it was made from."""

    def __init__(self, path: Path, format: str, version: int, made_from: str, chunk: int) -> None:
        self.path, self.chunk = path, chunk
        self.header = {"format": format, "version": version, "made_from": made_from}

    def rows(self, total: int) -> list[Row]:
        """The rows of whole chunks (all of them once ``total`` are there); what is left of a torn chunk is cut off."""
        if not self.path.exists():
            return []
        _cut_torn_line(self.path)
        numbered = [row for _, row in read_jsonl(self.path)]
        if not numbered:
            return []
        if numbered[0] != self.header:
            raise CcaError(
                f"{self.path}: was made from other data or by another version; delete it to make it again"
            )
        rows = numbered[1:]
        whole = len(rows) if len(rows) == total else len(rows) // self.chunk * self.chunk
        if whole < len(rows):
            self._truncate(whole)
        return rows[:whole]

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add one chunk, flushed to disk."""
        lines = [] if self.path.exists() and self.path.stat().st_size else [self.header]
        data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in (*lines, *rows)).encode()
        with self.path.open("ab") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())

    def _truncate(self, rows: int) -> None:
        data = self.path.read_bytes()
        end = 0
        for _ in range(rows + 1):
            end = data.index(b"\n", end) + 1
        os.truncate(self.path, end)


def _cut_torn_line(path: Path) -> None:
    data = path.read_bytes()
    if data and not data.endswith(b"\n"):
        os.truncate(path, data.rfind(b"\n") + 1)


def versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}}


def _manifest() -> dict[str, Any]:
    hardware = {
        "machine": platform.machine(),
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    if torch.cuda.is_available():
        hardware["gpus"] = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "format": FORMAT,
        "version": VERSION,
        "created": _now(),
        "versions": versions(),
        "hardware": hardware,
    }


def _without_out(config: Config) -> dict[str, Any]:
    return {key: value for key, value in config.model_dump(mode="json").items() if key != "out"}


def config_fingerprint(config: Config) -> str:
    return fingerprint(_without_out(config))


def _differences(old: Any, new: Any, where: str = "") -> set[str]:
    """Dotted names of the keys whose values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = old.keys() | new.keys()
        return set().union(
            *(_differences(old.get(k), new.get(k), f"{where}.{k}" if where else k) for k in keys), set()
        )
    return set() if old == new else {where}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
