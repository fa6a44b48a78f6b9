"""What decoding costs: expectations against brute force, a fit against known costs, metering against the engine."""

from __future__ import annotations

import itertools
import random

import pytest

import tiny_world
from cca.engines.engine import Request
from cca.engines.hf import HFEngine
from cca.runs.decoding_cost import Call, MeteredEngine, Speed, Work, expected_longest, expected_work


def test_expected_longest_is_the_mean_over_all_draws() -> None:
    lengths = [3, 9, 4, 4]
    for draws in (1, 2, 3):
        every = [max(drawn) for drawn in itertools.product(lengths, repeat=draws)]
        assert expected_longest(lengths, draws) == pytest.approx(sum(every) / len(every))
    assert expected_longest(lengths, 1000) == pytest.approx(9)


def test_expected_work_counts_batches() -> None:
    work = expected_work(10, [7, 7], prompt_tokens=5, batch_size=4)
    assert work == Work(steps=21, tokens=70, prompt_tokens=50, requests=10)
    assert expected_work(0, [7], 5, 4) == expected_work(3, [], 5, 4) == Work()
    assert expected_work(0.5, [8], 2, 4) == Work(steps=4, tokens=4, prompt_tokens=1, requests=0.5)


def test_the_fit_finds_the_costs_that_made_the_times() -> None:
    generator, costs = random.Random(0), Speed((2e-3, 1e-4, 1e-5, 0.0, 3e-5))
    calls, readings = [], []
    for _ in range(12):
        work = Work(*(generator.uniform(1, 100) for _ in range(4)))
        calls.append(Call((), work, costs.seconds(work)))
        read = Work(read=generator.uniform(1, 100))
        readings.append(Call((), read, costs.seconds(read)))
    assert Speed.fitted(calls, readings).per == pytest.approx(costs.per, rel=1e-6, abs=1e-9)
    assert Speed.fitted(calls).per[-1] == 0
    assert min(Speed.fitted([Call((), Work(1, 5, 3, 1), 0.1)]).per) >= 0


def test_metering_changes_nothing_and_counts_what_was_decoded() -> None:
    model, codec = tiny_world.model(), tiny_world.grader().codec
    requests = [
        Request(codec.encode(problem.prompt), 1.0, seed)
        for seed, problem in enumerate(tiny_world.problems(5))
    ]
    engine = MeteredEngine(model, 2)
    completions = engine.complete(requests, 4)
    assert completions == HFEngine(model, 2).complete(requests, 4)
    (call,) = engine.calls
    assert call.lengths == tuple(len(completion.token_ids) for completion in completions)
    assert call.work.tokens == engine.generated_tokens
    assert call.work.requests == 5
    assert call.work.prompt_tokens == sum(len(request.prefix) for request in requests)
    assert max(call.lengths) <= call.work.steps <= 3 * max(call.lengths)
    assert call.seconds > 0


@pytest.mark.parametrize("shared", [0, 20])
def test_metering_counts_what_was_read(shared: int) -> None:
    model, codec = tiny_world.model(), tiny_world.grader().codec
    few_shot = tuple(range(3, 3 + shared))
    texts = [(few_shot + codec.encode(problem.prompt), (5, 6, 7)) for problem in tiny_world.problems(4)]
    engine = MeteredEngine(model, 3)
    assert engine.greedy_paths(texts) == HFEngine(model, 3).greedy_paths(texts)
    (reading,) = engine.readings
    own = sum(len(prefix) - shared + len(text) for prefix, text in texts)
    assert reading.work == Work(read=own + shared)
    assert reading.seconds > 0
    assert not engine.calls
