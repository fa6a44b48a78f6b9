"""Verdicts on a model's greedy answers. No question is asked twice.

Verdicts are kept in a store by what the model holds. The base's answers themselves are kept too: they are drafts
(`cca.engines.engine`) for every edit of it, so that an edited model only writes where it answers otherwise. A resumed
run finds the same drafts, and so gets the same results, as one that was never stopped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol

from pydantic import NonNegativeInt, TypeAdapter, ValidationError
from torch import Tensor

from cca.engines.engine import Completion, Draft, Engine, Request, Tokens, complete_drafts, make_drafts
from cca.evaluation.accuracy import Results
from cca.evaluation.retention import DriftProbe
from cca.files import fingerprint
from cca.models.anatomy.weight_rows import same_bits, tensor_hash
from cca.models.loading import Codec
from cca.pivots.traces import Grader
from cca.problems.judges.judge import Verdict
from cca.problems.problem import Problem, problems_fingerprint

RETENTION_TOKENS = 64
"""Longest completion on a retention problem without worked solutions."""
UNTOUCHED = "untouched"
"""The weights of the base model, as a key."""
CUT_OFF = "c"
LETTERS = {**{verdict.value[0]: verdict for verdict in Verdict}, CUT_OFF: Verdict.UNREADABLE}
"""Verdicts as they are kept; an answer that the token limit cut off is unreadable with a letter of its own."""
TokenIds = tuple[NonNegativeInt, ...]
KEPT = TypeAdapter(list[tuple[TokenIds, bool, TokenIds | None, Literal["r", "w", "u", "c"]]])
"""The base's answers as they are kept: tokens, whether finished, tokens read where these differ, letter."""


class Store(Protocol):
    """Keeps JSON values by key (`cca.runs.folder.row_log.Measurements` keeps them in a run folder)."""

    def get(self, key: str, /) -> Any: ...

    def put(self, key: str, value: Any, /) -> None: ...


def weights_key(parts: Iterable[tuple[str, int, Tensor, Tensor, Tensor]]) -> str:
    """The key of a model with rows written into it: a hash of the rows that differ from the base.

    Each part is (parameter, axis, indices, before, after).
    """
    edits = [
        [name, axis, tensor_hash(indices), tensor_hash(after)]
        for name, axis, indices, before, after in parts
        if not same_bits(before, after)
    ]
    return fingerprint(sorted(edits)) if edits else UNTOUCHED


def retention_tokens(problems: Sequence[Problem], codec: Codec) -> int:
    """Longest completion on a retention set: twice its longest solution (or answer)."""
    longest = max(len(codec.encode_continuation(problem.solution or problem.answer)) for problem in problems)
    has_solutions = any(problem.solution for problem in problems)
    return max(8, 2 * longest) if has_solutions else max(RETENTION_TOKENS, 2 * longest)


@dataclass(frozen=True)
class BaseAnswers:
    """The base's answers to a chunk of problems, with the letter of each verdict."""

    drafts: tuple[Draft, ...]
    letters: str

    def to_value(self) -> list[Any]:
        """The answers as JSON. Tokens that the base reads are left out where it wrote the same ones."""
        return [
            [list(made.token_ids), made.finished, None if draft.read == made.token_ids else list(draft.read), letter]
            for draft, letter in zip(self.drafts, self.letters, strict=True)
            for made in [draft.completion]
        ]

    @staticmethod
    def from_value(value: Any, prefixes: Sequence[Tokens]) -> BaseAnswers | None:
        """The answers that `to_value` wrote for these prefixes; None for anything else."""
        try:
            records = KEPT.validate_python(value)
        except ValidationError:
            return None
        if len(records) != len(prefixes) or any(
            read is not None and len(read) != len(text) for text, _, read, _ in records
        ):
            return None
        drafts = [
            Draft(prefix, Completion(text, finished), text if read is None else read)
            for prefix, (text, finished, read, _) in zip(prefixes, records, strict=True)
        ]
        return BaseAnswers(tuple(drafts), "".join(record[3] for record in records))


@dataclass
class Answering:
    """Asks one model, base or edited, and remembers every verdict.

    ``key_parts`` identify the base model, its tokenizer and the judge. ``weights`` in the methods is the `weights_key`
    of what the model holds; None means unknown, and then nothing is kept.
    """

    engine: Engine
    grader: Grader
    store: Store
    key_parts: Sequence[Any]
    chunk: int = 256
    base: dict[str, BaseAnswers] = field(default_factory=dict)
    """The base's answers so far, by key."""

    def answers(
        self, problems: Sequence[Problem], max_new_tokens: int, weights: str | None = None, drafts: bool = True
    ) -> Results:
        """The verdicts on the greedy answers of the model as it stands.

        The base's answers become drafts, unless no edit will be asked the same (``drafts`` False).
        """
        letters = ""
        for start in range(0, len(problems), self.chunk):
            chunk = _Chunk(self, problems[start : start + self.chunk], max_new_tokens)
            letters += chunk.of_base() if weights == UNTOUCHED and drafts and chunk.drafting else chunk.of(weights)
        verdicts = tuple(LETTERS[letter] for letter in letters)
        return Results(tuple(problems), verdicts, tuple(letter == CUT_OFF for letter in letters))

    def by_skill(self, skills: Mapping[str, Sequence[Problem]], weights: str | None = None) -> dict[str, Results]:
        """`answers` to the problems of each retention set."""
        codec = self.grader.codec
        return {
            name: self.answers(problems, retention_tokens(problems, codec), weights)
            for name, problems in skills.items()
        }

    def drift(self, probe: DriftProbe, weights: str | None = None) -> float:
        """The drift that ``probe`` measures in the model as it stands, in nats per token."""
        texts = [[*text.prompt, -1, *text.solution] for text in probe.texts]
        key = self.key("drift", weights, texts)
        known = self.store.get(key) if weights else None
        if isinstance(known, float):
            return known
        drift = probe.drift()
        if weights:
            self.store.put(key, drift)
        return drift

    def key(self, what: str, weights: str | None, of: object) -> str:
        """The hash of everything that decides a measurement."""
        return fingerprint([what, *self.key_parts, weights, of])


@dataclass(frozen=True)
class _Chunk:
    """A chunk of problems put to the model."""

    asker: Answering
    problems: Sequence[Problem]
    max_new_tokens: int

    @property
    def drafting(self) -> bool:
        return self.asker.engine.reads_cheaply

    def of_base(self) -> str:
        """The base's verdicts; its answers are drafts from now on."""
        key, known = self._key("answers", UNTOUCHED), self.asker.base
        if key not in known:
            kept = self._kept_base()
            if kept is None:
                kept = self._new_base_answers()
                self.asker.store.put(key, kept.to_value())
            known[key] = kept
        return known[key].letters

    def of(self, weights: str | None) -> str:
        """The verdicts on the model as it stands, which holds ``weights``."""
        if weights and (known := self._kept_letters(weights)) is not None:
            return known
        if weights == UNTOUCHED and (base := self._kept_base()) is not None:
            return base.letters  # kept by an engine that takes drafts
        letters = self._asked()
        if weights:
            self.asker.store.put(self._key("verdicts", weights), letters)
        return letters

    def _kept_letters(self, weights: str) -> str | None:
        known = self.asker.store.get(self._key("verdicts", weights))
        sound = isinstance(known, str) and len(known) == len(self.problems) and set(known) <= set(LETTERS)
        return known if sound else None

    def _kept_base(self) -> BaseAnswers | None:
        kept = self.asker.store.get(self._key("answers", UNTOUCHED))
        return None if kept is None else BaseAnswers.from_value(kept, self._prefixes)

    def _new_base_answers(self) -> BaseAnswers:
        completions = self._written()
        drafts = make_drafts(self.asker.engine, self._prefixes, completions)
        known = self._kept_letters(UNTOUCHED)  # another engine may have decided a near-tie the other way
        return BaseAnswers(tuple(drafts), known or "".join(map(self._letter, self.problems, completions)))

    def _asked(self) -> str:
        base = self.asker.base.get(self._key("answers", UNTOUCHED)) if self.drafting else None
        if base is None:
            return "".join(map(self._letter, self.problems, self._written()))
        engine, finished = self.asker.engine, self.asker.grader.finished
        made = complete_drafts(engine, base.drafts, self.max_new_tokens, finished)
        return "".join(
            letter if completion == draft.completion else self._letter(problem, completion)
            for problem, completion, draft, letter in zip(self.problems, made, base.drafts, base.letters, strict=True)
        )

    def _written(self) -> list[Completion]:
        requests = [Request(prefix) for prefix in self._prefixes]
        return self.asker.engine.complete(requests, self.max_new_tokens, self.asker.grader.finished)

    @cached_property
    def _fingerprint(self) -> str:
        return problems_fingerprint(self.problems)

    @cached_property
    def _prefixes(self) -> list[Tokens]:
        return [self.asker.grader.prompt_ids(problem) for problem in self.problems]

    def _letter(self, problem: Problem, completion: Completion) -> str:
        verdict = self.asker.grader.verdict(problem, completion.token_ids, finished=completion.finished)
        return CUT_OFF if verdict is None else verdict.value[0]

    def _key(self, what: str, weights: str | None) -> str:
        # what was kept before answers cut off were told apart is not taken for these
        return self.asker.key(f"{what}, cut off apart", weights, [self._fingerprint, self.max_new_tokens])
