"""The verdicts on a model's greedy answers, none asked for twice.

Verdicts are kept by what the model holds (`cca.runs.folder.measurements`). The base's answers are kept as well: they
are drafts (`cca.engines.drafts`) for every edit of it, which writes only what it answers differently. A resumed run has
the same drafts, and so the same results, as one that was never stopped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

from cca.engines.drafts import complete_drafts, make_drafts
from cca.engines.engine import Completion, Engine, Request, Tokens
from cca.evaluation.accuracy import Results
from cca.evaluation.drift import DriftProbe
from cca.files import fingerprint
from cca.pivots.grader import Grader
from cca.problems.problem import Problem, problems_fingerprint
from cca.runs.folder.measurements import UNTOUCHED
from cca.runs.stages.base_answers import LETTERS, BaseAnswers

RETENTION_TOKENS = 64
"""Longest completion on a retention problem without worked solutions."""


class Store(Protocol):
    """Keeps measurements by key."""

    def get(self, key: str) -> Any:
        """The value under ``key``; None when there is none."""
        ...

    def put(self, key: str, value: Any) -> None: ...


@dataclass
class Answering:
    """``key_parts`` are what decides every measurement: model, tokenizer, judge. ``chunk`` is problems per key."""

    engine: Engine
    grader: Grader
    store: Store
    key_parts: Sequence[Any]
    chunk: int
    base_answers: dict[str, BaseAnswers] = field(default_factory=dict)
    """The base's answers so far, by the key of their chunk."""

    def answers(
        self,
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
        letters = ""
        for start in range(0, len(problems), self.chunk):
            asked = _Asked(self, problems[start : start + self.chunk], max_new_tokens)
            letters += (
                asked.of_base() if weights == UNTOUCHED and drafts and asked.drafting else asked.of(weights)
            )
        return Results(tuple(problems), tuple(LETTERS[letter] for letter in letters))

    def by_skill(
        self, skills: Mapping[str, Sequence[Problem]], weights: str | None = None
    ) -> dict[str, Results]:
        """`answers` to the problems of each retention set, as long as `retention_tokens` allows."""
        return {
            name: self.answers(own, retention_tokens(self.grader, own), weights)
            for name, own in skills.items()
        }

    def drift(self, probe: DriftProbe, weights: str | None = None) -> float:
        """The drift by ``probe`` of the model as it stands, which holds ``weights``."""
        key = self.key("drift", weights, [[*text.prompt, -1, *text.solution] for text in probe.texts])
        known = self.store.get(key) if weights else None
        if isinstance(known, float):
            return known
        drift = probe.drift()
        if weights:
            self.store.put(key, drift)
        return drift

    def key(self, what: str, weights: str | None, of: object) -> str:
        """The hash of all that decides a measurement."""
        return fingerprint([what, *self.key_parts, weights, of])


def retention_tokens(grader: Grader, problems: Sequence[Problem]) -> int:
    """Twice the longest solution (or answer) of a retention set."""
    codec = grader.codec
    longest = max(len(codec.encode_continuation(problem.solution or problem.answer)) for problem in problems)
    has_solutions = any(problem.solution for problem in problems)
    return max(8, 2 * longest) if has_solutions else max(RETENTION_TOKENS, 2 * longest)


@dataclass(frozen=True)
class _Asked:
    """A chunk of problems put to the model as it stands."""

    answering: Answering
    problems: Sequence[Problem]
    max_new_tokens: int

    @property
    def drafting(self) -> bool:
        return self.answering.engine.reads_cheaply

    def of_base(self) -> str:
        """The base's verdicts; its answers are drafts from now on."""
        key, known = self._key("answers", UNTOUCHED), self.answering.base_answers
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
        known = self.answering.store.get(self._key("verdicts", weights))
        sound = isinstance(known, str) and len(known) == len(self.problems) and set(known) <= set(LETTERS)
        return known if sound else None

    def _kept_base(self) -> BaseAnswers | None:
        kept = self.answering.store.get(self._key("answers", UNTOUCHED))
        return None if kept is None else BaseAnswers.from_value(kept, self._prefixes)

    def _new_base_answers(self) -> BaseAnswers:
        completions = self._written()
        drafts = make_drafts(self.answering.engine, self._prefixes, completions)
        known = self._kept_letters(UNTOUCHED)  # a near-tie may have fallen otherwise with another engine
        return BaseAnswers(tuple(drafts), known or "".join(map(self._letter, self.problems, completions)))

    def _asked(self) -> str:
        base = self.answering.base_answers.get(self._key("answers", UNTOUCHED)) if self.drafting else None
        if base is None:
            return "".join(map(self._letter, self.problems, self._written()))
        engine, finished = self.answering.engine, self.answering.grader.finished
        made = complete_drafts(engine, base.drafts, self.max_new_tokens, finished)
        return "".join(
            letter if completion == draft.completion else self._letter(problem, completion)
            for problem, completion, draft, letter in zip(
                self.problems, made, base.drafts, base.letters, strict=True
            )
        )

    def _written(self) -> list[Completion]:
        requests = [Request(prefix) for prefix in self._prefixes]
        return self.answering.engine.complete(requests, self.max_new_tokens, self.answering.grader.finished)

    @cached_property
    def _fingerprint(self) -> str:
        return problems_fingerprint(self.problems)

    @cached_property
    def _prefixes(self) -> list[Tokens]:
        return [self.answering.grader.prompt_ids(problem) for problem in self.problems]

    def _letter(self, problem: Problem, completion: Completion) -> str:
        return self.answering.grader.judgement(problem, completion.token_ids).verdict.value[0]

    def _keep(self, key: str, value: object) -> None:
        self.answering.store.put(key, value)

    def _key(self, what: str, weights: str | None) -> str:
        of = [self._fingerprint, self.max_new_tokens]
        return self.answering.key(what, weights, of)
