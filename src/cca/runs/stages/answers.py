"""A session's `Answering`: its engine and judge, with verdicts kept in the run folder."""

from __future__ import annotations

from cca.evaluation.answers import Answering
from cca.runs.session import Session


def answering(session: Session) -> Answering:
    known = session.fingerprints
    parts = [known["model"], known["tokenizer"], session.config.judge, known["judging"]]
    return Answering(
        session.engine, session.grader, session.measurements, parts, session.config.traces.chunk,
        session.chunk_done, session.base_answers,
    )  # fmt: skip
