"""Success-rate pivots (pivotal token search; Phi-4 technical report, arXiv 2412.08905, section 4.3): the tokens of a
sampled trace that change how often the model ends up right.

The success rate of a prefix is the share of right answers among completions sampled from it.

1. Problems whose success rate is extreme are left out: the prompt alone decides their answer.
2. A stretch of the trace whose ends have rates less than ``threshold`` apart is taken to hold no pivot. Any other is
   split at the midpoint of its cumulative log-probability, and both parts are searched. A stretch of one token that
   is left over is pivotal. The rate at the end of a trace is its verdict.
3. A pivot takes two tokens: the trace's own and the likeliest other one there. Both rates are known by then or
   sampled now; they must be ``threshold`` apart, the right way round, or it is noise and no pivot.

All problems are searched together, a batch of completions a level. Like bisection this finds pivots, not all of them:
two changes that cancel out within a stretch stay hidden.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from cca.engines.engine import Engine, GreedyPath, Progress, Request, Tokens, request_seed
from cca.errors import CcaError
from cca.pivots.pivot import Pivot, make_pivot
from cca.pivots.settings import PivotsConfig
from cca.pivots.traces import Grader, Pair, Trace, read_sampled
from cca.problems.problem import Problem

METHOD = "success-rate"
LOWEST, HIGHEST = 0.2, 0.8
"""Success rates of the bare prompt between which a problem is searched."""


@dataclass(eq=False)
class _Search:
    """One trace being searched. ``rates`` are of prefixes of it, by the text generated so far."""

    problem: Problem
    prompt: Tokens
    sampled: Trace
    path: GreedyPath
    rates: dict[Tokens, float] = field(default_factory=dict)
    stretches: list[tuple[int, int]] = field(default_factory=list)
    """(first, last): the tokens first ... last - 1, still to be split."""
    changes: list[int] = field(default_factory=list)
    """Places of single tokens that change the rate by the threshold."""

    @property
    def text(self) -> Tokens:
        return self.sampled.token_ids

    def change(self, first: int, last: int) -> float:
        return self.rates[self.text[:last]] - self.rates[self.text[:first]]

    def other(self, place: int) -> Tokens:
        """The prefix at ``place`` with the likeliest token that is not the trace's own."""
        greedy = self.path.token_ids[place]
        token = self.path.second[place] if greedy == self.text[place] else greedy
        return (*self.text[:place], token)


def success_rate_pivots(
    pairs: Sequence[Pair],
    grader: Grader,
    engine: Engine,
    settings: PivotsConfig,
    max_new_tokens: int,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[list[Pivot]]:
    """For each (problem, greedy trace, sampled trace), the pivots of the sampled trace, those that change the rate
    most first, at most ``settings.per_problem``.

    Raises CcaError for an engine that does not tell log-probabilities.
    """
    searches = _begun(pairs, grader, engine)
    rate = _Rates(grader, engine, settings, max_new_tokens, seed)
    rate.estimate((search, ()) for search in searches)
    open_ = [search for search in searches if LOWEST <= search.rates[()] <= HIGHEST and search.text]
    for search in open_:
        search.rates[search.text] = float(search.sampled.right)
        search.stretches = [(0, len(search.text))]
    if progress:
        progress(len(searches) - len(open_))
    while open_:
        halves = [
            (search, first, _midpoint(search.path.log_probs, first, last), last)
            for search in open_
            for first, last in _to_split(search, settings.threshold)
        ]
        rate.estimate((search, search.text[:middle]) for search, _, middle, _ in halves)
        for search, first, middle, last in halves:
            search.stretches += [(first, middle), (middle, last)]
        still = [search for search in open_ if search.stretches]
        if progress:
            progress(len(open_) - len(still))
        open_ = still
    rate.estimate((search, search.other(place)) for search in searches for place in search.changes)
    return [_pivots(search, settings) for search in searches]


def _begun(pairs: Sequence[Pair], grader: Grader, engine: Engine) -> list[_Search]:
    searches = [
        _Search(problem, prompt, sampled, path)
        for (problem, _, sampled), (prompt, path) in zip(pairs, read_sampled(pairs, grader, engine), strict=True)
    ]
    if any(not len(each.text) == len(each.path.second) == len(each.path.log_probs) for each in searches):
        raise CcaError(
            "pivots.method success-rate: expected an engine that tells log-probabilities of given texts, "
            f"got {type(engine).__name__}, which does not; take engine hf or another method"
        )
    return searches


@dataclass(frozen=True)
class _Rates:
    """Success rates, sampled: each completion is seeded by the run, the problem, the prefix and its number."""

    grader: Grader
    engine: Engine
    settings: PivotsConfig
    max_new_tokens: int
    seed: int

    def estimate(self, wanted: Iterable[tuple[_Search, Tokens]]) -> None:
        """Put the rates of these prefixes into their searches, where they are not known yet."""
        count, most = self.settings.samples, self.max_new_tokens
        unknown: list[tuple[_Search, Tokens]] = []
        for search, prefix in dict.fromkeys(wanted):
            if prefix in search.rates:
                continue
            ended = bool(prefix) and self.grader.codec.ends_text(prefix[-1])
            if ended or len(prefix) >= most:
                search.rates[prefix] = self._rate(search, [(prefix, ended)])
            else:
                unknown.append((search, prefix))
        if not unknown:
            return
        requests = [self._request(search, prefix, n) for search, prefix in unknown for n in range(count)]
        made = iter(self.engine.complete(requests, most, self.grader.finished))
        for search, prefix in unknown:
            own = [next(made) for _ in range(count)]
            search.rates[prefix] = self._rate(search, [(prefix + one.token_ids, one.finished) for one in own])

    def _request(self, search: _Search, prefix: Tokens, number: int) -> Request:
        seed = request_seed(self.seed, METHOD, search.problem.id, prefix, number)
        return Request(search.prompt + prefix, self.settings.temperature, seed, written=len(prefix))

    def _rate(self, search: _Search, texts: Sequence[tuple[Tokens, bool]]) -> float:
        """The share of right ones among (text, finished), without those that the token limit cut off before their
        answer; NaN, which reaches no threshold, where it was all of them."""
        judged = [self.grader.right(search.problem, text, finished) for text, finished in texts]
        sound = [right for right in judged if right is not None]
        return sum(sound) / len(sound) if sound else math.nan


def _to_split(search: _Search, threshold: float) -> list[tuple[int, int]]:
    """The stretches that must be split; those of one token become changes, those whose ends agree are dropped."""
    differing = [ends for ends in search.stretches if _reaches(abs(search.change(*ends)), threshold)]
    search.changes += [first for first, last in differing if last - first == 1]
    search.stretches = []
    return [(first, last) for first, last in differing if last - first > 1]


def _midpoint(log_probs: Sequence[float], first: int, last: int) -> int:
    """Where to split the tokens first ... last - 1: as near as can be to half of their log-probability."""
    half = sum(log_probs[first:last]) / 2
    before = list(accumulate(log_probs[first : last - 1]))  # of the tokens in front of each possible split
    return first + 1 + min(range(len(before)), key=lambda place: abs(before[place] - half))


def _pivots(search: _Search, settings: PivotsConfig) -> list[Pivot]:
    """Pivots at the places of change that hold against the likeliest other token, the largest first."""
    found: list[tuple[float, int, Pivot]] = []
    for place in search.changes:
        rises, other = search.change(place, place + 1) > 0, search.other(place)
        apart = search.rates[search.text[: place + 1]] - search.rates[other]
        if not _reaches(apart if rises else -apart, settings.threshold):
            continue
        pivot = make_pivot(
            search.problem, search.prompt, search.sampled, place, other[-1], greedy_right=not rises, method=METHOD
        )
        found.append((-abs(apart), place, pivot))
    return [pivot for _, _, pivot in sorted(found, key=lambda each: each[:2])][: settings.per_problem]


def _reaches(apart: float, threshold: float) -> bool:
    return apart >= threshold - 1e-9  # rates are quotients of counts; 0.7 - 0.2 is not 0.5
