"""The folder of a run: who holds it, and its manifest, which says what was run, on what, with what.

A stage is done when its last file is there; files appear whole (`cca.files`), logs grow by whole chunks
(`cca.runs.folder.row_log`). So a folder is sound whenever the process in it dies.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from cca.errors import CcaError
from cca.files import read_sealed, write_sealed
from cca.runs.config.config import Config, make_config
from cca.runs.folder.owner import Owner, held
from cca.runs.folder.provenance import provenance

FORMAT, VERSION = "cca.run", 1
MANIFEST = "manifest.json"
ENGINE = ("engine", "vllm", "ray", "device")
"""Keys that say what computes, and where: they may change while a run goes on, for hardware does."""


class RunDirectory:
    """A run folder held by this process, as a context manager. The lock is the system's: a crash frees it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.killed: Owner | None = None
        """The owner that was killed while it held the folder, if there was one."""
        self._made = False
        self._held: AbstractContextManager[Owner | None] | None = None

    def __enter__(self) -> RunDirectory:
        self._made = not self.path.exists()
        self._held = held(self.path)
        self.killed = self._held.__enter__()
        _remove_leftovers(self.path)
        return self

    def __exit__(self, *raised: Any) -> None:
        assert self._held is not None
        self._held.__exit__(*raised)
        if self._made and not self.begun and all(_ours(entry.name) for entry in self.path.iterdir()):
            shutil.rmtree(self.path)  # nothing came of it: a model or a task that cannot be used

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @property
    def begun(self) -> bool:
        return (self / MANIFEST).exists()

    def check_new(self) -> None:
        """Raises CcaError when the folder holds anything."""
        foreign = sorted(entry.name for entry in self.path.iterdir() if not _ours(entry.name))
        if foreign:
            raise CcaError(f"{self.path}: expected a new folder or a run's, found {foreign[0]!r} in it")

    def begin(
        self, config: Config, fingerprints: Mapping[str, str], device: str | None = None, **more: Any
    ) -> None:
        """Make this new folder that of ``config`` on this model and data; the model is on ``device``."""
        given = config.model_dump(mode="json", exclude_unset=True, exclude={"out"})
        whole = {
            **provenance(device),
            "config": without_out(config),
            "engine": config.model_dump(mode="json", include=set(ENGINE)),
            "given": given,
            "fingerprints": dict(fingerprints),
        }
        write_sealed(self / MANIFEST, FORMAT, VERSION, {**whole, **more})

    def check_config(self, config: Config) -> None:
        """Raises CcaError naming the keys that differ from those this run began with."""
        changed = sorted(differences(without_out(self.config()), without_out(config)))
        if changed:
            raise CcaError(
                f"{self.path}: is a run with other {', '.join(changed)}; set them back, or add --fork NEW_DIR to go on "
                "in a new folder that reuses every stage still valid"
            )

    def check_fingerprints(self, fingerprints: Mapping[str, str]) -> None:
        """Raises CcaError naming what of model and data is not what this run began with."""
        known = self.manifest()["fingerprints"]
        changed = [what for what, expected in known.items() if fingerprints.get(what) != expected]
        if changed:
            raise CcaError(
                f"{self.path}: its {', '.join(changed)} changed since this run began; restore it, take another out, "
                "or add --fork NEW_DIR to cca run"
            )

    def manifest(self) -> dict[str, Any]:
        """Raises CcaError when there is none or it is damaged."""
        manifest = read_sealed(self / MANIFEST, FORMAT, VERSION)
        for part in ("config", "fingerprints", "versions"):
            if not isinstance(manifest.get(part), dict):
                raise CcaError(
                    f"{self / MANIFEST}: expected an object {part!r}, got {manifest.get(part)!r:.80}"
                )
        return manifest

    def note(self, text: str) -> None:
        """Keep in the manifest what a reader of the results should know (a batch that was halved)."""
        manifest = self.manifest()
        if text not in manifest.get("notes", []):
            manifest["notes"] = [*manifest.get("notes", []), text]
            write_sealed(self / MANIFEST, FORMAT, VERSION, manifest)

    def config(self) -> Config:
        """The configuration this run was started with."""
        manifest = self.manifest()
        return make_config({**manifest["config"], **manifest.get("engine", {}), "out": str(self.path)})


def without_out(config: Config) -> dict[str, Any]:
    """What was asked for, wherever it is kept, whoever is told, whatever generates and however weights are spread."""
    return config.model_dump(mode="json", exclude={"out", "trackers", "sharding", *ENGINE})


def differences(old: Any, new: Any, where: str = "") -> set[str]:
    """Dotted names of the keys whose values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = old.keys() | new.keys()
        return set().union(
            *(differences(old.get(k), new.get(k), f"{where}.{k}" if where else k) for k in keys), set()
        )
    return set() if old == new else {where}


def _ours(name: str) -> bool:
    return name.startswith(".") or name in ("run.log", "plan.json")


def _remove_leftovers(folder: Path) -> None:
    """Remove what a killed process was writing when it died: ``.name.xxxxxxxx`` beside ``name`` (`cca.files`)."""
    for entry in folder.glob(".*.*"):
        stem, _, random = entry.name.removeprefix(".").rpartition(".")
        if len(random) == 8 and "." in stem and entry.is_file():
            entry.unlink(missing_ok=True)
