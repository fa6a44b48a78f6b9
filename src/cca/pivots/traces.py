"""A Trace: one completion of a Problem and the judge's verdict on it.

For every problem the greedy trace comes first, then samples in a fixed order until one has the opposite verdict
(paper, section 3.1: up to 10 samples, at temperature 1.2 when greedy was right and 0.8 when it was wrong). Stopping at
the first opposite one loses nothing: each sample is seeded by (run, problem, sample number), later ones are not used.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from cca.engines.engine import Completion, Engine, GreedyPath, Progress, Request, Tokens, request_seed
from cca.errors import CcaError
from cca.files import Row
from cca.pivots.settings import TracesConfig
from cca.problems.judges.judge import Judge, Judgement, Verdict
from cca.problems.problem import Problem

if TYPE_CHECKING:
    from cca.models.loading import Codec


FORMAT, VERSION = "cca.traces", 1
MOST_TOKENS = 1 << 31
"""Upper bound of the token ids in a file."""


@dataclass(frozen=True)
class Trace:
    """``sample`` 0 is the greedy trace. ``token_ids`` are the completion's; the text is for people and judges."""

    problem: str
    sample: int
    temperature: float
    token_ids: Tokens
    text: str
    answer: str | None
    verdict: Verdict
    finished: bool

    @property
    def right(self) -> bool:
        return self.verdict is Verdict.RIGHT

    @property
    def cut_off(self) -> bool:
        """True where the token limit came before a closed answer: such a text tells nothing of right or wrong."""
        return not self.finished and self.verdict is Verdict.UNREADABLE

    def to_row(self) -> Row:
        return {**self.__dict__, "token_ids": list(self.token_ids)}

    @staticmethod
    def from_row(row: Row) -> Trace:
        """Raises CcaError for anything but what `to_row` gives."""
        if not isinstance(row, dict) or set(row) != {field.name for field in fields(Trace)}:
            raise CcaError(f"expected a trace row, got other fields: {row!r:.120}")
        sample, temperature, token_ids = row["sample"], row["temperature"], row["token_ids"]
        sound = (
            all(isinstance(row[name], str) for name in ("problem", "text", "verdict"))
            and isinstance(row["answer"], str | None)
            and isinstance(row["finished"], bool)
            and type(sample) is int
            and sample >= 0
            and type(temperature) in (int, float)
            and 0 <= temperature < math.inf
            and isinstance(token_ids, list)
            and all(type(token) is int and 0 <= token < MOST_TOKENS for token in token_ids)
            and row["verdict"] in list(Verdict)
        )
        if not sound:
            raise CcaError(f"trace of problem {row['problem']!r:.80}: a value is not of its kind: {row!r:.200}")
        return Trace(**{**row, "token_ids": tuple(token_ids), "verdict": Verdict(row["verdict"])})


Pair = tuple[Problem, Trace, Trace]
"""A problem, its greedy trace and a sampled one of the opposite verdict."""


def greedy_traces(
    problems: Sequence[Problem], grader: Grader, engine: Engine, max_new_tokens: int, progress: Progress | None = None
) -> list[Trace]:
    """One greedy trace per problem, in order."""
    requests = [Request(grader.prompt_ids(problem)) for problem in problems]
    completions = engine.complete(requests, max_new_tokens, grader.finished, progress)
    return [
        make_trace(problem, completion, grader, 0, 0.0)
        for problem, completion in zip(problems, completions, strict=True)
    ]


def sample_traces(
    problems: Sequence[Problem],
    grader: Grader,
    engine: Engine,
    settings: TracesConfig,
    max_new_tokens: int,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[list[Trace]]:
    """Per problem its greedy trace, then its samples up to the first with the opposite verdict.

    ``max_new_tokens`` is the longest completion (`longest_completion`); ``seed`` decides every sample.
    """
    traces = [[trace] for trace in greedy_traces(problems, grader, engine, max_new_tokens, progress)]
    for first, last in _rounds(settings.samples):
        open_ = [i for i, own in enumerate(traces) if opposite(own) is None and not own[0].cut_off]
        wanted = [(i, sample) for i in open_ for sample in range(first, last + 1)]
        requests = [_sample_request(problems[i], traces[i][0], sample, grader, settings, seed) for i, sample in wanted]
        completions = engine.complete(requests, max_new_tokens, grader.finished) if requests else []
        for (i, sample), request, completion in zip(wanted, requests, completions, strict=True):
            if opposite(traces[i]) is None:
                traces[i].append(make_trace(problems[i], completion, grader, sample, request.temperature))
    return traces


def opposite(traces: Sequence[Trace]) -> Trace | None:
    """The first sample whose verdict is not that of the greedy trace (``traces[0]``); no trace is cut off."""
    sound = [] if traces[0].cut_off else [trace for trace in traces[1:] if not trace.cut_off]
    return next((trace for trace in sound if trace.right != traces[0].right), None)


def make_trace(problem: Problem, completion: Completion, grader: Grader, sample: int, temperature: float) -> Trace:
    judgement = grader.judgement(problem, completion.token_ids, cut_off=not completion.finished)
    return Trace(
        problem=problem.id,
        sample=sample,
        temperature=temperature,
        token_ids=completion.token_ids,
        text=grader.codec.decode(completion.token_ids),
        answer=judgement.answer,
        verdict=judgement.verdict,
        finished=completion.finished,
    )


def _sample_request(
    problem: Problem, greedy: Trace, sample: int, grader: Grader, settings: TracesConfig, seed: int
) -> Request:
    temperature = settings.temperature_when_right if greedy.right else settings.temperature_when_wrong
    return Request(grader.prompt_ids(problem), temperature, request_seed(seed, problem.id, sample))


def _rounds(samples: int) -> list[tuple[int, int]]:
    """Sample numbers 1 ... ``samples`` in a few growing rounds: the first is enough for most problems."""
    bounds = [bound for bound in (0, 2, 5) if bound < samples] + [samples]
    return [(low + 1, high) for low, high in zip(bounds, bounds[1:], strict=False)]


DEFAULT_NEW_TOKENS = 512
"""Longest completion where no problem has a worked solution."""


@dataclass(frozen=True)
class Grader:
    codec: Codec
    judge: Judge

    def prompt_ids(self, problem: Problem) -> tuple[int, ...]:
        return self.codec.encode(problem.prompt, special_tokens=not problem.chat)

    def judgement(self, problem: Problem, token_ids: Sequence[int], *, cut_off: bool = False) -> Judgement:
        """The verdict on a completion. ``cut_off``: it reached its token limit, so only a closed answer counts."""
        return self.judge(self.codec.decode(token_ids), problem.answer, cut_off=cut_off)

    def right(self, problem: Problem, token_ids: Sequence[int], finished: bool) -> bool | None:
        """True for a right completion; None where the token limit cut it off before its answer."""
        verdict = self.judgement(problem, token_ids, cut_off=not finished).verdict
        return None if not finished and verdict is Verdict.UNREADABLE else verdict is Verdict.RIGHT

    def finished(self, token_ids: Sequence[int]) -> bool:
        """The stop rule for engines: True when the verdict on a completion cannot change any more."""
        return self.judge.finished(self.codec.decode(token_ids))


def read_sampled(pairs: Sequence[Pair], grader: Grader, engine: Engine) -> list[tuple[Tokens, GreedyPath]]:
    """The prompt of each pair, and the greedy path along its sampled trace."""
    texts = [(grader.prompt_ids(problem), sampled.token_ids) for problem, _, sampled in pairs]
    return [(prompt, path) for (prompt, _), path in zip(texts, engine.greedy_paths(texts), strict=True)]


def longest_completion(problems: Sequence[Problem], codec: Codec, context: int) -> int:
    """Tokens that a completion may have: twice the longest worked solution of ``problems``, and 8 more.

    `DEFAULT_NEW_TOKENS` where no problem has a worked solution; never more than ``context`` tokens with a prompt.
    """
    lengths = [len(codec.encode_continuation(each.solution)) for each in problems if each.solution]
    return min(context - 1, 2 * max(lengths) + 8 if lengths else DEFAULT_NEW_TOKENS)
