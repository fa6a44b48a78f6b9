"""Branching pivots (paper, section 3.1): the token of a sampled trace that changes how the greedy story ends.

Walk the sampled trace y. At the first k where the verdict of the greedy completion of ``y[:k+1]`` differs from that of
``y[:k]``, the pivot is the prefix ``y[:k]``; its tokens are ``y[k]`` and the greedy token after ``y[:k]``.

The published code completes every prefix. That is not needed:

1. While y follows the greedy completion of ``y[:j]``, the completions of ``y[:j]`` ... ``y[:k]`` are one text. So only
   the positions where y leaves it can be pivots: complete ``y[:k+1]`` at the first difference k, and go on from there.
2. Once y follows the greedy path to its end, the completion is y itself, whose verdict is known. One teacher-forced
   forward tells where that begins; where a lead of the greedy token is so small that batching could flip it, the
   completion is generated all the same.
3. All problems walk together, one batch a round, and a prefix that occurs twice is completed once.

Completions are made by the engine that made the traces, so that ties fall the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cca.engines.engine import Engine, GreedyPath, Progress, Request, Tokens
from cca.models.grading import Grader
from cca.pivots.pivot import Pivot, first_difference, make_pivot
from cca.pivots.traces import Trace
from cca.problems.answers import Verdict
from cca.problems.problem import Problem

TIE_MARGIN = 1e-3
"""Logits by which a greedy token must lead for a teacher-forced forward to be believed."""


@dataclass
class _Walk:
    """One sampled trace being walked: ``current`` is the greedy completion of the prefix reached so far."""

    problem: Problem
    prompt: Tokens
    sampled: Trace
    greedy_right: bool
    current: Tokens
    settled: int
    """From this position on, the sampled trace follows the greedy path beyond doubt."""
    position: int | None = None
    pivot: Pivot | None = None

    def advance(self) -> bool:
        """Move to the next position where the trace leaves the greedy path; False when there is none."""
        self.position = first_difference(self.sampled.token_ids, self.current)
        return self.position is not None

    @property
    def prefix(self) -> Tokens:
        """The trace up to and including the token at the position."""
        assert self.position is not None
        return self.sampled.token_ids[: self.position + 1]

    def settle(self, right: bool, completion: Tokens) -> bool:
        """Take the verdict on the completion of `prefix`; True when it makes this position the pivot."""
        assert self.position is not None
        if right != self.greedy_right:
            k = self.position
            self.pivot = make_pivot(
                self.problem.id,
                self.problem.template,
                self.prompt,
                self.sampled.token_ids[:k],
                sampled=self.sampled.token_ids[k],
                greedy=self.current[k],
                greedy_right=self.greedy_right,
                method="branching",
                sample=self.sampled.sample,
            )
            return True
        self.current = completion
        return False


def branching_pivots(
    pairs: Sequence[tuple[Problem, Trace, Trace]],
    grader: Grader,
    engine: Engine,
    max_new_tokens: int,
    progress: Progress | None = None,
) -> list[Pivot | None]:
    """The branching pivot of each (problem, greedy trace, sampled trace of the opposite verdict); None where the walk
    finds none (two traces that part only by where they were cut off)."""
    prompts = [grader.prompt_ids(problem) for problem, _, _ in pairs]
    texts = [(prompt, sampled.token_ids) for prompt, (_, _, sampled) in zip(prompts, pairs, strict=True)]
    paths = engine.greedy_paths(texts)
    walks = [
        _Walk(problem, prompt, sampled, greedy.right, greedy.token_ids, _settled(sampled.token_ids, path))
        for prompt, (problem, greedy, sampled), path in zip(prompts, pairs, paths, strict=True)
    ]
    open_ = walks
    while open_:
        moving = [walk for walk in open_ if walk.advance()]
        _complete(moving, grader, engine, max_new_tokens)
        still = [walk for walk in moving if walk.pivot is None]
        if progress:
            progress(len(open_) - len(still))
        open_ = still
    return [walk.pivot for walk in walks]


def _complete(walks: Sequence[_Walk], grader: Grader, engine: Engine, max_new_tokens: int) -> None:
    """Give every walk the verdict on its prefix, from the trace itself where that is known, else by generating."""
    unknown: list[_Walk] = []
    for walk in walks:
        assert walk.position is not None
        if walk.position + 1 >= walk.settled:
            walk.settle(walk.sampled.right, walk.sampled.token_ids)
        else:
            unknown.append(walk)
    wanted = list(dict.fromkeys(walk.prompt + walk.prefix for walk in unknown))
    completions = dict(zip(wanted, _generate(wanted, unknown, grader, engine, max_new_tokens), strict=True))
    for walk in unknown:
        text = (walk.prefix + completions[walk.prompt + walk.prefix])[:max_new_tokens]
        walk.settle(grader.judgement(walk.problem, text).verdict is Verdict.RIGHT, text)


def _generate(
    wanted: Sequence[Tokens], walks: Sequence[_Walk], grader: Grader, engine: Engine, max_new_tokens: int
) -> list[Tokens]:
    if not wanted:
        return []
    longest = max_new_tokens - min(len(walk.prefix) for walk in walks)
    completions = engine.complete([Request(prefix) for prefix in wanted], max(1, longest), grader.finished)
    return [completion.token_ids for completion in completions]


def _settled(text: Tokens, path: GreedyPath) -> int:
    """The first position from which every token of the text is the greedy one by a safe margin."""
    position = len(text)
    while (
        position
        and path.token_ids[position - 1] == text[position - 1]
        and path.margins[position - 1] > TIE_MARGIN
    ):
        position -= 1
    return position
