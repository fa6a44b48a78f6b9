"""Success-rate pivots against a naive search (one trace, one completion at a time), and where places are known."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import pytest

import tiny_world
from cca.engines.engine import GreedyPath, Request, Tokens, request_seed
from cca.engines.hf import HFEngine
from cca.errors import CcaError
from cca.pivots.find import pair_traces
from cca.pivots.pivot import Pivot, make_pivot
from cca.pivots.settings import PivotsConfig, TracesConfig
from cca.pivots.success_rate import HIGHEST, LOWEST, success_rate_pivots
from cca.pivots.traces import Grader, Pair, Trace, sample_traces
from cca.problems.judges.judge import Judgement, Verdict
from cca.problems.problem import Problem

SETTINGS = PivotsConfig(method="success-rate", threshold=0.4, samples=10, temperature=1.3, per_problem=9)
LONGEST, SEED = 8, 3


class ThirdWordJudge(tiny_world.ChecksumJudge):
    """Right when the third word has an even number: the third token alone decides."""

    def __call__(self, text: str, gold: str, *, cut_off: bool = False) -> Judgement:
        del gold, cut_off
        words = text.split()
        even = len(words) > 2 and int(words[2][1:]) % 2 == 0
        return Judgement(Verdict.RIGHT if even else Verdict.WRONG, text)


def paired(grader: Grader, engine: HFEngine, count: int) -> list[Pair]:
    problems = tiny_world.problems(count)
    return pair_traces(problems, sample_traces(problems, grader, engine, TracesConfig(samples=4), LONGEST))


def naive_pivots(problem: Problem, sampled: Trace, grader: Grader, engine: HFEngine) -> list[Pivot]:
    """The definition, read out loud, by recursion."""
    prompt, text = grader.prompt_ids(problem), sampled.token_ids
    path = engine.greedy_paths([(prompt, text)])[0]

    def right(completion: Tokens) -> bool:
        return grader.judgement(problem, completion).verdict is Verdict.RIGHT

    @cache
    def rate(prefix: Tokens) -> float:
        if prefix == text or prefix[-1:] == (2,) or len(prefix) == LONGEST:
            return float(right(prefix))
        count = 0
        for number in range(SETTINGS.samples):
            seed = request_seed(SEED, "success-rate", problem.id, prefix, number)
            request = Request(prompt + prefix, SETTINGS.temperature, seed)
            count += right(prefix + engine.complete([request], LONGEST - len(prefix))[0].token_ids)
        return count / SETTINGS.samples

    def search(first: int, last: int) -> list[int]:
        if abs(rate(text[:last]) - rate(text[:first])) < SETTINGS.threshold - 1e-9:
            return []
        if last - first == 1:
            return [first]
        half = sum(path.log_probs[first:last]) / 2
        middle = min(range(first + 1, last), key=lambda m: abs(sum(path.log_probs[first:m]) - half))
        return search(first, middle) + search(middle, last)

    def pivot(k: int) -> tuple[float, Pivot] | None:
        other = path.second[k] if path.token_ids[k] == text[k] else path.token_ids[k]
        rises = rate(text[: k + 1]) > rate(text[:k])
        apart = rate(text[: k + 1]) - rate((*text[:k], other))
        if (apart if rises else -apart) < SETTINGS.threshold - 1e-9:
            return None
        made = make_pivot(problem, prompt, sampled, k, other, greedy_right=not rises, method="success-rate")
        return -abs(apart), made

    if not LOWEST <= rate(()) <= HIGHEST:
        return []
    found = [each for k in search(0, len(text)) if (each := pivot(k)) is not None]
    return [made for _, made in sorted(found, key=lambda each: each[0])]


def test_same_pivots_as_the_naive_search() -> None:
    grader, engine = tiny_world.grader(), HFEngine(tiny_world.model())
    pairs = paired(grader, engine, 30)
    found = success_rate_pivots(pairs, grader, engine, SETTINGS, LONGEST, SEED)
    one_by_one = HFEngine(engine.model, batch_size=1)
    assert found == [naive_pivots(problem, sampled, grader, one_by_one) for problem, _, sampled in pairs]
    assert sum(map(len, found)) >= 5


def test_the_one_token_that_decides_is_found() -> None:
    grader, engine = Grader(tiny_world.grader().codec, ThirdWordJudge()), HFEngine(tiny_world.model())
    settings = SETTINGS.model_copy(update={"samples": 40, "temperature": 2.0})
    found = success_rate_pivots(paired(grader, engine, 40), grader, engine, settings, LONGEST, SEED)
    pivots = [pivot for own in found for pivot in own]
    pivots = [pivot for pivot in pivots if pivot.undesired != 2]  # an end of text leaves no third word
    assert len(pivots) >= 5
    assert {len(grader.codec.decode(pivot.prefix).split()) for pivot in pivots} == {2}
    assert all(pivot.desired % 2 == 0 and pivot.undesired % 2 == 1 for pivot in pivots)


def test_settled_problems_are_left_out_and_few_are_kept_of_many(monkeypatch: pytest.MonkeyPatch) -> None:
    grader, engine = tiny_world.grader(), HFEngine(tiny_world.model())
    pairs = paired(grader, engine, 30)
    loose = SETTINGS.model_copy(update={"threshold": 0.2})
    every = success_rate_pivots(pairs, grader, engine, loose, LONGEST, SEED)
    assert max(map(len, every)) > 1
    assert {pivot.greedy_right for own in every for pivot in own} == {True, False}
    one = success_rate_pivots(pairs, grader, engine, loose.model_copy(update={"per_problem": 1}), LONGEST, SEED)
    assert one == [own[:1] for own in every]
    monkeypatch.setattr("cca.pivots.success_rate.LOWEST", 0.5)
    monkeypatch.setattr("cca.pivots.success_rate.HIGHEST", 0.5)
    narrow = success_rate_pivots(pairs, grader, engine, loose, LONGEST, SEED)
    assert sum(map(bool, narrow)) < sum(map(bool, every))


def test_an_engine_without_log_probabilities_is_refused() -> None:
    class Terse(HFEngine):
        def greedy_paths(self, texts: Sequence[tuple[Tokens, Tokens]]) -> list[GreedyPath]:
            return [GreedyPath(path.token_ids, path.margins) for path in super().greedy_paths(texts)]

    grader, engine = tiny_world.grader(), Terse(tiny_world.model())
    with pytest.raises(CcaError, match="success-rate: expected an engine that tells log-probabilities"):
        success_rate_pivots(paired(grader, engine, 12), grader, engine, SETTINGS, LONGEST, SEED)
