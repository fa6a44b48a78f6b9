"""Judging one step of amplify on validation data: the skill, the other skills, and the drift on their solutions."""

from __future__ import annotations

import math
from functools import cached_property

from cca.amplify.update import Validation
from cca.engines.engine import Request
from cca.evaluation.accuracy import Results
from cca.evaluation.retention import DriftProbe, solution_texts
from cca.problems.problem import Problem
from cca.problems.sources import halves
from cca.runs.session import Session

RETENTION_TOKENS = 64
"""Longest completion on a retention problem without worked solutions."""


class Validator:
    """Made while the model is untouched; called whenever a step is to be judged."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.guards = {name: halves(problems)[0] for name, problems in session.task.retention.items()}
        self.base = self._retention()

    @cached_property
    def probe(self) -> DriftProbe:
        problems = [problem for guard in self.guards.values() for problem in guard]
        return DriftProbe(self.session.model, solution_texts(problems, self.session.grader))

    def prepare(self) -> None:
        """Take the base's distributions; must run before the first step."""
        self.probe  # noqa: B018

    def __call__(self) -> Validation:
        accuracy = answers(self.session, self.session.task.validation, self.session.max_new_tokens).accuracy
        drift = self.probe.drift()
        retention = self._retention()
        return Validation(accuracy, drift, retention, self._in_budget(drift, retention))

    def _in_budget(self, drift: float, retention: dict[str, float]) -> bool:
        """Losses are counted in whole problems: one problem is always allowed, or noise would decide."""
        budget = self.session.config.amplify.budget
        if drift > budget.drift:
            return False
        for name, guard in self.guards.items():
            lost = round((self.base[name] - retention[name]) * len(guard))
            if lost > max(1, math.floor(budget.points / 100 * len(guard))):
                return False
        return True

    def _retention(self) -> dict[str, float]:
        return {
            name: answers(self.session, guard, retention_tokens(self.session, guard)).accuracy
            for name, guard in self.guards.items()
        }


def answers(session: Session, problems: list[Problem] | tuple[Problem, ...], max_new_tokens: int) -> Results:
    """The verdicts on the greedy answers of the model as it stands."""
    grader = session.grader
    requests = [Request(grader.prompt_ids(problem)) for problem in problems]
    completions = session.engine.complete(requests, max_new_tokens, grader.finished)
    verdicts = [
        grader.judgement(problem, completion.token_ids).verdict
        for problem, completion in zip(problems, completions, strict=True)
    ]
    return Results(tuple(problems), tuple(verdicts))


def retention_tokens(session: Session, problems: list[Problem]) -> int:
    """Twice the longest solution (or answer) of a retention set."""
    codec = session.grader.codec
    longest = max(len(codec.encode_continuation(problem.solution or problem.answer)) for problem in problems)
    has_solutions = any(problem.solution for problem in problems)
    return max(8, 2 * longest) if has_solutions else max(RETENTION_TOKENS, 2 * longest)
