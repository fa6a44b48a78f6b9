"""The lock and the manifest of a run folder; what cca removes from a folder, and what it leaves alone."""

from __future__ import annotations

from pathlib import Path

import pytest

import tiny_run
from cca.errors import CcaError
from cca.runs.config import load_config
from cca.runs.folder.run_folder import RunFolder
from cca.runs.pipeline import run, run_stage
from cca.runs.progress import NoProgress

THEIRS = (
    ".pre-commit-config.yaml.disabled",
    ".eslintrc.json.original",
    ".x.y.12345678",
    ".bashrc",
    ".lint.json.abcdefgh",
)


def test_a_folder_of_other_files_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    for name in (*THEIRS, "thesis.tex"):
        (mine / name).write_text("years of work")
    with pytest.raises(CcaError, match=r"found 'thesis\.tex' in it"):
        run(load_config(tiny_run.make(tmp_path), [f"out={mine}"]), NoProgress())
    assert sorted(entry.name for entry in mine.iterdir()) == sorted((*THEIRS, "thesis.tex"))


def test_only_temporary_files_of_cca_are_removed_from_a_run(tmp_path: Path) -> None:
    config = load_config(tiny_run.make(tmp_path))
    run_stage(config, "traces", NoProgress())
    ours = (".pivots.jsonl.a1b2c3d4", "..status.json.zz_9yy88", ".manifest.json.abcdefgh")
    for name in (*THEIRS, *ours):
        (config.out / name).write_text("torn")
    run_stage(config, "traces", NoProgress())
    left = {entry.name for entry in config.out.iterdir()}
    assert left >= set(THEIRS)
    assert not left & set(ours)


def test_a_folder_that_came_to_nothing_is_removed(tmp_path: Path) -> None:
    config = load_config(tiny_run.make(tmp_path), [f"model={tmp_path / 'none'}"])
    with pytest.raises(CcaError):
        run(config, NoProgress())
    assert not config.out.exists()


def test_notes_are_kept_once(tmp_path: Path) -> None:
    config = load_config(tiny_run.make(tmp_path))
    with RunFolder(config.out) as folder:
        folder.begin(config, {"model": "m"})
        for text in ("a batch was halved", "a batch was halved", "another"):
            folder.note(text)
        assert folder.manifest()["notes"] == ["a batch was halved", "another"]
