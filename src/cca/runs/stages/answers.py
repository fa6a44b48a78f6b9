"""The verdicts on a model's greedy answers, none asked for twice.

Verdicts are kept by what the model holds (`cca.runs.folder.measurements`). Of the base the answers themselves are kept
as well: they are drafts (`cca.engines.drafts`) for every edit of it, which writes anew only what it answers
otherwise. A resumed run has the same drafts, and so the same results, as one that was never stopped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from cca.engines.drafts import complete_drafts, make_drafts
from cca.engines.engine import Completion, Request, Tokens
from cca.evaluation.accuracy import Results
from cca.files import fingerprint
from cca.problems.problem import Problem, problems_fingerprint
from cca.runs.folder.measurements import UNTOUCHED
from cca.runs.session import Session
from cca.runs.stages.base_answers import LETTERS, BaseAnswers

RETENTION_TOKENS = 64
"""Longest completion on a retention problem without worked solutions."""


def answers(
    session: Session,
    problems: Sequence[Problem],
    max_new_tokens: int,
    weights: str | None = None,
    drafts: bool = True,
) -> Results:
    """The verdicts on the greedy answers of the model as it stands.

    ``weights`` says what it holds (`measurements.weights_key`): then verdicts are kept, and those kept are not
    asked for again. None: unknown, keep nothing. Where the base was asked the same before, its answers are drafts,
    unless no edit will be asked (``drafts`` False).
    """
    letters, chunk = "", session.config.traces.chunk
    for start in range(0, len(problems), chunk):
        own = problems[start : start + chunk]
        asked = _Asked(session, own, max_new_tokens)
        letters += (
            asked.of_base() if weights == UNTOUCHED and drafts and asked.drafting else asked.of(weights)
        )
    return Results(tuple(problems), tuple(LETTERS[letter] for letter in letters))


def answers_by_skill(
    session: Session, skills: Mapping[str, Sequence[Problem]], weights: str | None = None
) -> dict[str, Results]:
    """`answers` to the problems of each retention set, as long as `retention_tokens` allows."""
    return {
        name: answers(session, own, retention_tokens(session, own), weights) for name, own in skills.items()
    }


def retention_tokens(session: Session, problems: Sequence[Problem]) -> int:
    """Twice the longest solution (or answer) of a retention set."""
    codec = session.grader.codec
    longest = max(len(codec.encode_continuation(problem.solution or problem.answer)) for problem in problems)
    has_solutions = any(problem.solution for problem in problems)
    return max(8, 2 * longest) if has_solutions else max(RETENTION_TOKENS, 2 * longest)


def measurement_key(session: Session, what: str, weights: str | None, of: object) -> str:
    """The hash of all that decides a measurement."""
    known = session.fingerprints
    asked = [known["model"], known["tokenizer"], session.config.judge, known["judging"]]
    return fingerprint([what, *asked, weights, of])


@dataclass(frozen=True)
class _Asked:
    """A chunk of problems put to a session's model."""

    session: Session
    problems: Sequence[Problem]
    max_new_tokens: int

    @property
    def drafting(self) -> bool:
        return self.session.engine.reads_cheaply

    def of_base(self) -> str:
        """The base's verdicts; its answers are drafts from now on."""
        key, known = self._key("answers", UNTOUCHED), self.session.base_answers
        if key not in known:
            kept = self._kept_base()
            if kept is None:
                kept = self._new_base_answers()
                self._keep(key, kept.to_value())
            known[key] = kept
        return known[key].letters

    def of(self, weights: str | None) -> str:
        """The verdicts on the model as it stands, which holds ``weights``."""
        if weights and (known := self._kept_letters(weights)) is not None:
            return known
        if weights == UNTOUCHED and (base := self._kept_base()) is not None:
            return base.letters  # which an engine that takes drafts left
        letters = self._asked()
        if weights:
            self._keep(self._key("verdicts", weights), letters)
        return letters

    def _kept_letters(self, weights: str) -> str | None:
        known = self.session.measurements.get(self._key("verdicts", weights))
        sound = isinstance(known, str) and len(known) == len(self.problems) and set(known) <= set(LETTERS)
        return known if sound else None

    def _kept_base(self) -> BaseAnswers | None:
        kept = self.session.measurements.get(self._key("answers", UNTOUCHED))
        return None if kept is None else BaseAnswers.from_value(kept, self._prefixes)

    def _new_base_answers(self) -> BaseAnswers:
        completions = self._written()
        drafts = make_drafts(self.session.engine, self._prefixes, completions)
        known = self._kept_letters(UNTOUCHED)  # a near-tie may have fallen otherwise with another engine
        return BaseAnswers(tuple(drafts), known or "".join(map(self._letter, self.problems, completions)))

    def _asked(self) -> str:
        base = self.session.base_answers.get(self._key("answers", UNTOUCHED)) if self.drafting else None
        if base is None:
            return "".join(map(self._letter, self.problems, self._written()))
        engine, finished = self.session.engine, self.session.grader.finished
        made = complete_drafts(engine, base.drafts, self.max_new_tokens, finished)
        return "".join(
            letter if completion == draft.completion else self._letter(problem, completion)
            for problem, completion, draft, letter in zip(
                self.problems, made, base.drafts, base.letters, strict=True
            )
        )

    def _written(self) -> list[Completion]:
        requests = [Request(prefix) for prefix in self._prefixes]
        return self.session.engine.complete(requests, self.max_new_tokens, self.session.grader.finished)

    @cached_property
    def _fingerprint(self) -> str:
        return problems_fingerprint(self.problems)

    @cached_property
    def _prefixes(self) -> list[Tokens]:
        return [self.session.grader.prompt_ids(problem) for problem in self.problems]

    def _letter(self, problem: Problem, completion: Completion) -> str:
        return self.session.grader.judgement(problem, completion.token_ids).verdict.value[0]

    def _keep(self, key: str, value: object) -> None:
        self.session.measurements.put(key, value)
        self.session.chunk_done()

    def _key(self, what: str, weights: str | None) -> str:
        of = [self._fingerprint, self.max_new_tokens]
        return measurement_key(self.session, what, weights, of)
