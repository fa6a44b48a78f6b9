"""A whole comparison: every arm on every model and seed, each skipped when its row is there, then compare.json."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cca.compare.arms import ArmRun, Control
from cca.compare.combine import combined
from cca.compare.config import Arm, CompareConfig, ModelEntry, arms_of, base_config
from cca.compare.page import compare_page
from cca.compare.results import Comparison
from cca.compare.shared_work import SharedWork
from cca.files import Row, fingerprint, write_json, write_text
from cca.runs.config import Config
from cca.runs.folder.row_log import Measurements
from cca.runs.folder.run_folder import RunFolder
from cca.runs.open import open_run
from cca.runs.progress import RunProgress

INDIFFERENT = {"out", "preset", "evaluate", "device", "device_map", "trackers", "vllm", "ray"}
"""Keys of a run that change no row."""


@dataclass(frozen=True)
class Cell:
    """One row of the log: an arm, or a control of it, on one model and seed."""

    model: ModelEntry
    seed: int
    arm: Arm
    control: Control | None
    run: Config
    limits: Row
    test: bool

    @property
    def label(self) -> str:
        return self.arm.label if self.control is None else f"{self.arm.label}: {self.control.kind}"

    @property
    def key(self) -> str:
        """Hash of all that decides the row; names and folders do not."""
        run = self.run.model_dump(mode="json", exclude=INDIFFERENT)
        control = None if self.control is None else [self.control.kind, self.control.draw]
        arm: list[Any] = [self.arm.pivots, self.arm.balance, self.arm.baseline, self.arm.options]
        if self.arm.rounds > 1:
            arm += [self.arm.rounds, self.arm.retrace]
        return fingerprint([run, arm, control, self.limits, self.test])

    def row(self, shared: SharedWork) -> Row:
        known: Row = {
            "key": self.key, "model": self.model.label, "seed": self.seed, "label": self.label,
            "entry": self.arm.entry, "control": self.control and self.control.kind,
            "draw": self.control and self.control.draw,
        }  # fmt: skip
        return {**known, **ArmRun(shared, self.arm, self.run, self.control).row()}


def compare(config: CompareConfig, progress: RunProgress) -> Comparison:
    """Run or resume a comparison; returns what compare.json holds. Raises CcaError with one line for bad input."""
    with RunFolder(config.out):
        log = open_log(config.out)
        for model in config.models:
            for seed in config.seeds:
                _on_one_model(config, model, seed, log, progress)
        return write_results(config, log)


def open_log(folder: Path) -> Measurements:
    """The finished arms by key. A torn last row is run again; damaged and other files are refused."""
    return Measurements(folder, file="arms.jsonl", header={"format": "cca.arms", "version": 2})


def cells_of(config: CompareConfig, model: ModelEntry, seed: int) -> Iterator[Cell]:
    """Every arm, followed by its controls."""
    controls = {entry.name: entry.controls for entry in config.arms}
    limits = config.limits.model_dump()
    for arm in arms_of(config):
        run = arm.run_config(config, model, seed, work_folder(config, model, seed))
        cell = Cell(model, seed, arm, None, run, limits, config.test)
        yield cell
        wanted = controls[arm.entry]
        for kind, draws in (("random", wanted.random), ("random-layers", wanted.random_layers)):
            for draw in range(1, draws + 1):
                yield replace(cell, control=Control(kind, draw))


def work_folder(config: CompareConfig, model: ModelEntry, seed: int) -> Path:
    return config.out / "work" / f"{model.label}-seed{seed}"


def write_results(config: CompareConfig, log: Measurements) -> Comparison:
    """compare.json and compare.html from the rows there are, each under the name the configuration has for it now."""
    rows: list[Row] = []
    for model in config.models:
        for seed in config.seeds:
            for cell in cells_of(config, model, seed):
                found = log.get(cell.key)
                if found is not None:
                    rows.append({**found, "label": cell.label, "entry": cell.arm.entry, "model": model.label})
    result = combined(config, rows)
    write_json(config.out / "compare.json", result.model_dump(mode="json"))
    write_text(config.out / "compare.html", compare_page(result))
    return result


def _on_one_model(
    config: CompareConfig, model: ModelEntry, seed: int, log: Measurements, progress: RunProgress
) -> None:
    pending = [cell for cell in cells_of(config, model, seed) if log.get(cell.key) is None]
    base = base_config(config, model, seed, work_folder(config, model, seed))
    # also when nothing is pending: rows of another model or other problems under the same names are refused
    with open_run(base, progress) as session:
        if not pending:
            return
        shared = SharedWork(config, session)
        for cell in pending:
            what = cell.label + (f" {cell.control.draw}" if cell.control else "")
            with progress.work(f"{model.label}, seed {seed}: {what}", None):
                log.put(cell.key, cell.row(shared))
            session.interrupts.check()
