"""A session's retention texts: those that circuits and objectives may be fitted to."""

from __future__ import annotations

from cca.evaluation.retention import retention_texts
from cca.gradients.sampled_likelihood import Text
from cca.runs.session import Session


def spared_texts(session: Session) -> list[Text]:
    return retention_texts(session.task.retention, session.grader)
