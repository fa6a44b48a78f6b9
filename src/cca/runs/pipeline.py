"""A whole run: every stage in order, each skipped when its file is already there."""

from __future__ import annotations

from collections.abc import Callable

from cca.files import Row, read_json, write_json, write_text
from cca.reports.page import render_page
from cca.reports.report import make_report
from cca.runs import stages
from cca.runs.config import Config
from cca.runs.evaluating import evaluation
from cca.runs.narrator import Narrator
from cca.runs.session import Session, open_session

STAGES: dict[str, Callable[[Session], object]] = {
    "traces": stages.traces,
    "pivots": stages.pivots,
    "circuit": stages.circuit,
    "amplify": stages.patch,
    "evaluate": evaluation,
}


def run(config: Config, narrator: Narrator) -> Row:
    """Run or resume everything; returns the report. Raises CcaError with one line for anything it cannot use."""
    with open_session(config, narrator) as session:
        evaluation(session)
        return write_report(session)


def run_stage(config: Config, stage: str, narrator: Narrator) -> None:
    """One stage, and those before it that are still owed."""
    with open_session(config, narrator) as session:
        STAGES.get(stage, write_report)(session)


def write_report(session: Session) -> Row:
    """report.json and report.html from the files of the stages."""
    folder = session.folder
    report = make_report(
        folder.manifest(), evaluation(session), read_json(folder / "amplify.json"), session.timing()
    )
    write_json(folder / "report.json", report)
    write_text(folder / "report.html", render_page(folder.path))
    return report
