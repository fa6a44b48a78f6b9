"""A whole run: every stage in order, each skipped when its file is already there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cca.files import Row, read_sealed, write_json, write_text
from cca.reports.page import render_page
from cca.reports.report import make_report
from cca.runs.config.config import Config
from cca.runs.folder.run_folder import RunDirectory
from cca.runs.open import open_session
from cca.runs.plan import held_against, read_plan
from cca.runs.progress.costs import FILE as TIMING
from cca.runs.progress.costs import read_accounts
from cca.runs.progress.narrator import Narrator
from cca.runs.session import Session
from cca.runs.stages import stages
from cca.runs.stages.amplify import AMPLIFY
from cca.runs.stages.evaluate import FORMAT as EVALUATION
from cca.runs.stages.evaluate import evaluation

RUN: dict[str, Callable[[Session], object]] = {
    "traces": stages.traces,
    "pivots": stages.pivots,
    "circuit": stages.circuit,
    "amplify": stages.patch,
    "evaluate": evaluation,
}


def run(config: Config, narrator: Narrator, fork_of: Path | None = None) -> Row:
    """Run or resume everything; returns the report. Raises CcaError with one line for anything it cannot use."""
    with open_session(config, narrator, fork_of) as session:
        evaluation(session)
        report = write_report(session.folder.path)
        assert report is not None
        return report


def run_stage(config: Config, stage: str, narrator: Narrator) -> None:
    """One stage, and those before it that are still owed."""
    with open_session(config, narrator) as session:
        RUN[stage](session)


def write_report(path: Path) -> Row | None:
    """report.json and report.html from the files of the stages; of a run under way the page alone.

    Loads no model and takes no lock. Returns report.json; None when it is not there yet.
    """
    folder = RunDirectory(path)
    manifest, report = folder.manifest(), None
    if (folder / "evaluation.json").exists():
        measured = read_sealed(folder / "evaluation.json", EVALUATION, 1)
        amplified = read_sealed(folder / "amplify.json", AMPLIFY, 1)
        report = make_report(manifest, measured, amplified, read_accounts(folder / TIMING))
        report |= {key: manifest[key] for key in ("notes", "forked_from") if key in manifest}
        plan = read_plan(path, manifest["config"])
        if plan is not None:
            report["plan"] = held_against(plan, read_accounts(folder / TIMING), _steps_taken(report))
        write_json(folder / "report.json", report)
    write_text(folder / "report.html", render_page(path))
    return report


def _steps_taken(report: Row) -> dict[str, int]:
    """Of amplify, and of all controls together."""
    steps = {"amplify": report["amplify"]["history"][-1]["step"]}
    draws = report.get("controls", {}).get("random", {}).get("draws", ())
    if draws and all("steps" in draw for draw in draws):  # runs made before steps were written down lack them
        steps["controls"] = sum(draw["steps"] for draw in draws)
    return steps
