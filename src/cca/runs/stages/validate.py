"""A session's `Validator`, which judges steps of amplify."""

from __future__ import annotations

from cca.amplify.settings import BudgetConfig
from cca.evaluation.validation import Validator
from cca.runs.session import Session
from cca.runs.stages.answers import answering


def validator(session: Session, budget: BudgetConfig | None = None) -> Validator:
    """Make it while the model is untouched. ``budget`` takes the place of the configuration's."""
    return Validator(
        session.model, session.grader, answering(session), session.task.validation, session.task.retention,
        budget or session.config.amplify.budget, session.max_new_tokens, session.note,
    )  # fmt: skip
