"""Judging one step of amplify on validation data: the skill, the other skills, and the drift on their solutions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

from torch import Tensor

from cca.amplify.update import Validation
from cca.engines.engine import Request
from cca.evaluation.accuracy import Results
from cca.evaluation.retention import DriftProbe, solution_texts
from cca.files import fingerprint
from cca.models.out_of_memory import halving
from cca.models.weight_rows import WeightRows, get_rows
from cca.problems.answers import Verdict
from cca.problems.problem import Problem, problems_fingerprint
from cca.problems.sources import halves
from cca.runs.measurements import UNTOUCHED, weights_key
from cca.runs.session import Session
from cca.runs.spared import judging

RETENTION_TOKENS = 64
"""Longest completion on a retention problem without worked solutions."""
LETTERS = {verdict.value[0]: verdict for verdict in Verdict}
PROBE_BATCH = 32


class Validator:
    """Made while the model is untouched; called whenever a step is to be judged.

    A step whose rows were judged before, by this process or by one that was killed, is not judged again.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.guards = {name: halves(problems)[0] for name, problems in session.task.retention.items()}
        self.base = self._retention(UNTOUCHED)
        self._watched: list[WeightRows] | None = None

    @cached_property
    def probe(self) -> DriftProbe:
        problems = [problem for own in self.session.task.retention.values() for problem in judging(own)]
        return make_probe(self.session, problems)

    def prepare(self, rows: Sequence[WeightRows] | None = None) -> None:
        """Take the base's distributions; must run before the first step.

        ``rows`` are all that the steps will change. Without them nothing is known of what the model holds when it
        is judged, and no judgement is kept.
        """
        self.probe  # noqa: B018
        self._watched = None if rows is None else list(rows)
        self._before = [self._read(row) for row in self._watched or ()]

    def __call__(self) -> Validation:
        weights = self._weights()
        session = self.session
        accuracy = answers(session, session.task.validation, session.max_new_tokens, weights).accuracy
        drift = drift_of(session, self.probe, weights)
        retention = self._retention(weights)
        return Validation(accuracy, drift, retention, self._in_budget(drift, retention))

    def _weights(self) -> str | None:
        if self._watched is None:
            return None
        watched = zip(self._watched, self._before, strict=True)
        return weights_key(
            (row.parameter, row.axis, row.indices, before, self._read(row)) for row, before in watched
        )

    def _read(self, row: WeightRows) -> Tensor:
        return get_rows(self.session.model.get_parameter(row.parameter).detach(), row.axis, row.indices)

    def _in_budget(self, drift: float, retention: dict[str, float]) -> bool:
        """Losses are counted in whole problems: one problem is always allowed, or noise would decide."""
        budget = self.session.config.amplify.budget
        if not drift <= budget.drift:  # not a number is over any budget
            return False
        for name, guard in self.guards.items():
            lost = round((self.base[name] - retention[name]) * len(guard))
            if lost > max(1, math.floor(budget.points / 100 * len(guard))):
                return False
        return True

    def _retention(self, weights: str | None) -> dict[str, float]:
        return {
            name: answers(self.session, guard, retention_tokens(self.session, guard), weights).accuracy
            for name, guard in self.guards.items()
        }


def make_probe(session: Session, problems: Sequence[Problem]) -> DriftProbe:
    """A probe of the model as it stands, on the solutions of ``problems``."""
    texts = solution_texts(problems, session.grader)
    return halving("drift", PROBE_BATCH, lambda size: DriftProbe(session.model, texts, size), session.note)


def drift_of(session: Session, probe: DriftProbe, weights: str | None) -> float:
    """The drift that ``probe`` finds in the model as it stands, which holds ``weights`` (`weights_key`)."""
    key = _key(session, "drift", weights, [[*text.prompt, -1, *text.solution] for text in probe.texts])
    known = session.measurements.get(key) if weights else None
    if isinstance(known, float):
        return known
    drift = probe.drift()
    if weights:
        session.measurements.put(key, drift)
    return drift


def answers(
    session: Session, problems: Sequence[Problem], max_new_tokens: int, weights: str | None = None
) -> Results:
    """The verdicts on the greedy answers of the model as it stands.

    ``weights`` says what it holds (`measurements.weights_key`): then verdicts are kept, and those kept are not
    asked for again. None: unknown, keep nothing.
    """
    verdicts: list[Verdict] = []
    chunk = session.config.traces.chunk
    for start in range(0, len(problems), chunk):
        own = problems[start : start + chunk]
        key = _key(session, "verdicts", weights, [problems_fingerprint(own), max_new_tokens])
        known = session.measurements.get(key) if weights else None
        if not isinstance(known, str) or len(known) != len(own) or not set(known) <= set(LETTERS):
            known = "".join(verdict.value[0] for verdict in _asked(session, own, max_new_tokens))
            if weights:
                session.measurements.put(key, known)
                session.chunk_done()
        verdicts += [LETTERS[letter] for letter in known]
    return Results(tuple(problems), tuple(verdicts))


def _asked(session: Session, problems: Sequence[Problem], max_new_tokens: int) -> list[Verdict]:
    grader = session.grader
    requests = [Request(grader.prompt_ids(problem)) for problem in problems]
    completions = session.engine.complete(requests, max_new_tokens, grader.finished)
    return [
        grader.judgement(problem, completion.token_ids).verdict
        for problem, completion in zip(problems, completions, strict=True)
    ]


def _key(session: Session, what: str, weights: str | None, of: object) -> str:
    known = session.fingerprints
    asked = [known["model"], known["tokenizer"], session.config.judge, known["judging"]]
    return fingerprint([what, *asked, weights, of])


def retention_tokens(session: Session, problems: Sequence[Problem]) -> int:
    """Twice the longest solution (or answer) of a retention set."""
    codec = session.grader.codec
    longest = max(len(codec.encode_continuation(problem.solution or problem.answer)) for problem in problems)
    has_solutions = any(problem.solution for problem in problems)
    return max(8, 2 * longest) if has_solutions else max(RETENTION_TOKENS, 2 * longest)
