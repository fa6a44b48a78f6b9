"""A stage command is given a run folder, or the run.yaml of a run that is to begin."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cca.errors import CcaError
from cca.runs.config.config import Config, load_config
from cca.runs.folder.run_folder import MANIFEST, RunDirectory


def config_at(where: Path, overrides: Sequence[str]) -> Config:
    """The configuration of the run at ``where``. Raises CcaError when there is none, or it would be changed."""
    if not where.is_dir():
        return load_config(where, overrides)
    if overrides:
        raise CcaError(f"{where}: a run keeps its configuration; use --set with a run.yaml and a new 'out'")
    return RunDirectory(folder_of(where)).config()


def folder_of(where: Path) -> Path:
    """The run folder at ``where``, or the one that a run.yaml names. Raises CcaError when no run has begun there."""
    folder = where if where.is_dir() else load_config(where).out
    if not (folder / MANIFEST).is_file():
        raise CcaError(f"{folder}: expected a run folder (with {MANIFEST}), got none; `cca run` begins one")
    return folder
