"""From traces to pivots: problems whose traces have opposite verdicts, and the method that the settings name.

Branching (paper, section 3.1) looks for the token of a sampled trace that changes how the greedy story ends.

Walk the sampled trace y. At the first k where the verdict of the greedy completion of ``y[:k+1]`` differs from that of
``y[:k]``, the pivot is the prefix ``y[:k]``; its tokens are ``y[k]`` and the greedy token after ``y[:k]``. Where
several pivots per problem are asked for, the walk goes on: the next one is where the verdict changes again. A
completion that the token limit cut off before its answer has no verdict, and makes no pivot.

The published code completes every prefix. That is not needed:

1. While y follows the greedy completion of ``y[:j]``, the completions of ``y[:j]`` ... ``y[:k]`` are one text. So only
   the positions where y leaves it can be pivots: complete ``y[:k+1]`` at the first difference k, and go on from there.
2. One teacher-forced forward over y tells how far that completion follows y itself: those tokens need no generating,
   and where they reach the end of y the completion is y, whose verdict is known. Where a lead of the greedy token is so
   small that batching could flip it, the token is generated all the same.
3. All problems walk together, one batch a round, and a prefix that occurs twice is completed once.

Completions are made by the engine that made the traces, so that ties fall the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from cca.engines.engine import Engine, GreedyPath, Progress, Request, Tokens
from cca.pivots.pivot import Pivot, first_difference, make_pivot
from cca.pivots.settings import PivotsConfig
from cca.pivots.success_rate import success_rate_pivots
from cca.pivots.traces import Grader, Pair, Trace, opposite, read_sampled
from cca.problems.problem import Problem

TIE_MARGIN = 1e-3
"""Logits by which a greedy token must lead, beyond rounding, for a teacher-forced forward to be believed."""


def pair_traces(problems: Sequence[Problem], traces: Sequence[Sequence[Trace]]) -> list[Pair]:
    """(problem, greedy trace, first sampled trace of the opposite verdict), for the problems that have one.

    ``traces`` holds the traces of one problem per item, the greedy one first, in any order and for any part of
    ``problems``.
    """
    by_id = {problem.id: problem for problem in problems}
    return [(by_id[own[0].problem], own[0], sampled) for own in traces if (sampled := opposite(own)) is not None]


def find_pivots(
    pairs: Sequence[Pair],
    grader: Grader,
    engine: Engine,
    settings: PivotsConfig,
    max_new_tokens: int,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[list[Pivot]]:
    """The pivots of each pair (paper, section 3.1), at most ``settings.per_problem``; some pairs have none.

    ``settings.most`` is the caller's to apply. Raises CcaError for an engine that the method cannot use.
    """
    match settings.method:
        case "branching":
            return branching_pivots(pairs, grader, engine, max_new_tokens, settings.per_problem, progress)
        case "success-rate":
            return success_rate_pivots(pairs, grader, engine, settings, max_new_tokens, seed, progress)
    if progress:
        progress(len(pairs))
    return [first_difference_pivots(pair, grader) for pair in pairs]


def first_difference_pivots(pair: Pair, grader: Grader) -> list[Pivot]:
    """The pivot at the first token in which the two traces differ; none where one trace continues the other."""
    problem, greedy, sampled = pair
    at = first_difference(sampled.token_ids, greedy.token_ids)
    if at is None:
        return []
    own = greedy.token_ids[at]
    prompt = grader.prompt_ids(problem)
    return [make_pivot(problem, prompt, sampled, at, own, greedy_right=greedy.right, method="first-difference")]


@dataclass
class _Walk:
    """One sampled trace being walked: ``current`` is the greedy completion of the prefix reached so far."""

    problem: Problem
    prompt: Tokens
    sampled: Trace
    right: bool | None
    """The verdict on ``current``; None where the token limit cut it off before its answer."""
    current: Tokens
    path: GreedyPath
    """Along the sampled trace."""
    position: int | None = None
    pivots: list[Pivot] = field(default_factory=list)

    def advance(self) -> bool:
        """Move to the next position where the trace leaves the greedy path; False when there is none."""
        self.position = first_difference(self.sampled.token_ids, self.current)
        return self.position is not None

    @property
    def prefix(self) -> Tokens:
        """The trace up to and including the token at the position, and on as far as it is greedy beyond doubt."""
        assert self.position is not None
        text, end = self.sampled.token_ids, self.position + 1
        while end < len(text) and self.path.token_ids[end] == text[end] and self.path.margins[end] > TIE_MARGIN:
            end += 1
        return text[:end]

    def settle(self, right: bool | None, completion: Tokens) -> None:
        """Take the completion of `prefix` and the verdict on it, which may make this position a pivot."""
        assert self.position is not None
        if right is not None and self.right is not None and right != self.right:
            self.pivots.append(
                make_pivot(
                    self.problem, self.prompt, self.sampled, self.position, self.current[self.position],
                    greedy_right=self.right, method="branching",
                )
            )  # fmt: skip
        self.right, self.current = right, completion


def branching_pivots(
    pairs: Sequence[Pair],
    grader: Grader,
    engine: Engine,
    max_new_tokens: int,
    most: int = 1,
    progress: Progress | None = None,
) -> list[list[Pivot]]:
    """The first ``most`` pivots of each (problem, greedy trace, sampled trace of the opposite verdict), in the order of
    the sampled trace; none where the two part only by where they were cut off."""
    walks = [
        _Walk(problem, prompt, sampled, greedy.right, greedy.token_ids, path)
        for (problem, greedy, sampled), (prompt, path) in zip(pairs, read_sampled(pairs, grader, engine), strict=True)
    ]
    open_ = walks
    while open_:
        moving = [walk for walk in open_ if walk.advance()]
        _complete(moving, grader, engine, max_new_tokens)
        still = [walk for walk in moving if len(walk.pivots) < most]
        if progress:
            progress(len(open_) - len(still))
        open_ = still
    return [walk.pivots for walk in walks]


def _complete(walks: Sequence[_Walk], grader: Grader, engine: Engine, max_new_tokens: int) -> None:
    """Give every walk the verdict on its prefix, from the trace itself where that is known, else by generating."""
    unknown: list[tuple[_Walk, Tokens]] = []
    for walk in walks:
        prefix = walk.prefix
        if prefix == walk.sampled.token_ids:
            walk.settle(walk.sampled.right, prefix)
        else:
            unknown.append((walk, prefix))
    if not unknown:
        return
    requests = [Request(walk.prompt + prefix, written=len(prefix)) for walk, prefix in unknown]
    wanted = list(dict.fromkeys(requests))
    made = engine.complete(wanted, max_new_tokens, grader.finished)
    completions = dict(zip(wanted, made, strict=True))
    for (walk, prefix), request in zip(unknown, requests, strict=True):
        text = prefix + completions[request].token_ids
        walk.settle(grader.right(walk.problem, text, completions[request].finished), text)
