"""Branching with its shortcuts against the naive walk: one greedy completion per token, one at a time."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

import tiny_world
from cca.engines.engine import GreedyPath, Request, Tokens
from cca.engines.hf import HFEngine
from cca.pivots.find import TIE_MARGIN, branching_pivots, pair_traces
from cca.pivots.pivot import Pivot, make_pivot
from cca.pivots.settings import TracesConfig
from cca.pivots.traces import Grader, Pair, Trace, sample_traces
from cca.problems.judges.judge import Verdict
from cca.problems.problem import Problem

World = tuple[list[Pair], Grader, HFEngine]
NEW_TOKENS = 14
PROBLEMS = 260


def naive_pivots(problem: Problem, sampled: Trace, grader: Grader, engine: HFEngine, new_tokens: int) -> list[Pivot]:
    """The definition, read out loud: complete every prefix, compare neighbouring verdicts."""
    prompt, text, found = grader.prompt_ids(problem), sampled.token_ids, []

    def completed(k: int) -> tuple[int, ...]:
        if k >= new_tokens or (k and text[k - 1] in (2,)):
            return text[:k]
        (completion,) = engine.complete([Request(prompt + text[:k], written=k)], new_tokens, grader.finished)
        return text[:k] + completion.token_ids

    before = completed(0)
    for k in range(len(text)):
        after = completed(k + 1)
        verdicts = [grader.judgement(problem, t).verdict is Verdict.RIGHT for t in (before, after)]
        if verdicts[0] != verdicts[1]:
            found.append(
                make_pivot(problem, prompt, sampled, k, before[k], greedy_right=verdicts[0], method="branching")
            )
        before = after
    return found


@pytest.fixture(scope="module")
def world() -> World:
    grader, engine = tiny_world.grader(), HFEngine(tiny_world.model(), batch_size=64)
    problems = tiny_world.problems(PROBLEMS)
    traces = sample_traces(problems, grader, engine, TracesConfig(samples=6), NEW_TOKENS)
    pairs = pair_traces(problems, traces)
    return pairs, grader, engine


def test_same_pivots_as_completing_every_prefix(world: World) -> None:
    pairs, grader, engine = world
    assert len(pairs) >= 200
    before = engine.generated_tokens
    found = branching_pivots(pairs, grader, engine, NEW_TOKENS)
    cheap = engine.generated_tokens - before
    one_by_one = HFEngine(engine.model, batch_size=1)
    expected = [naive_pivots(p, sampled, grader, one_by_one, NEW_TOKENS) for p, _, sampled in pairs]
    assert found == [own[:1] for own in expected]
    for most in (2, 99):
        assert branching_pivots(pairs, grader, engine, NEW_TOKENS, most) == [own[:most] for own in expected]
    assert max(map(len, expected)) > 2
    assert sum(map(len, found)) >= 150
    # A random model leaves its greedy path far more often than a trained one.
    assert cheap < one_by_one.generated_tokens


class Doubtful(HFEngine):
    """Reads every token of a text as the greedy one, by a lead that batching could turn."""

    def greedy_paths(self, texts: Sequence[tuple[Tokens, Tokens]]) -> list[GreedyPath]:
        return [GreedyPath(text, (1e-6,) * len(text)) for _, text in texts]


def test_a_reading_that_could_be_a_tie_is_generated(world: World) -> None:
    pairs, grader, engine = world
    doubtful = Doubtful(engine.model, batch_size=64)
    found = branching_pivots(pairs[:60], grader, doubtful, NEW_TOKENS)
    assert found == branching_pivots(pairs[:60], grader, engine, NEW_TOKENS)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_reading_in_half_precision_is_sure_only_of_what_is_written(dtype: torch.dtype) -> None:
    """Rounding alone parts reading and writing by leads far above a fixed margin."""
    model, grader = tiny_world.model(dtype=dtype), tiny_world.grader()
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(5)  # logits of a trained model's size
    engine = HFEngine(model, batch_size=32)
    prompts = [grader.prompt_ids(problem) for problem in tiny_world.problems(PROBLEMS)]
    written = [made.token_ids for made in engine.complete([Request(prompt) for prompt in prompts], NEW_TOKENS)]
    paths = engine.greedy_paths(list(zip(prompts, written, strict=True)))
    wrong = [
        margin
        for text, path in zip(written, paths, strict=True)
        for token, read, margin in zip(text, path.token_ids, path.margins, strict=True)
        if read != token
    ]
    assert len(wrong) >= 5
    assert max(wrong) <= TIE_MARGIN
    assert sum(margin > TIE_MARGIN for path in paths for margin in path.margins) > len(wrong) * 50, "most are believed"


def test_desired_token_is_on_the_right_side(world: World) -> None:
    pairs, grader, engine = world
    for (problem, greedy, sampled), found in zip(
        pairs, branching_pivots(pairs, grader, engine, NEW_TOKENS), strict=True
    ):
        for pivot in found:
            assert pivot.greedy_right == greedy.right != sampled.right
            on_sample = pivot.undesired if greedy.right else pivot.desired
            assert sampled.token_ids[len(pivot.prefix)] == on_sample
            assert pivot.problem == problem.id
            assert pivot.desired != pivot.undesired
