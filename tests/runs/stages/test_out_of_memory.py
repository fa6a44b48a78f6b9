"""Out of memory halves the batch and changes nothing else."""

from __future__ import annotations

import pytest
import torch

import tiny_world
from cca.engines.engine import Request
from cca.engines.hf import HFEngine
from cca.errors import CcaError
from cca.models.memory import halving, is_out_of_memory
from little_memory import room_for


def test_generation_goes_on_with_half_the_batch() -> None:
    model, said = tiny_world.model(), list[str]()
    codec = tiny_world.grader().codec
    requests = [
        Request(codec.encode(problem.prompt), temperature, seed)
        for seed, problem in enumerate(tiny_world.problems(9))
        for temperature in (0.0, 1.0)
    ]
    expected = HFEngine(model, 16).complete(requests, 6)
    engine = HFEngine(model, 16, said.append)
    with room_for(model, 5):
        assert engine.complete(requests, 6) == expected
    assert said == [
        "generation: out of memory with a batch of 16; going on with 8",
        "generation: out of memory with a batch of 8; going on with 4",
    ]
    assert engine.batch_size == 4
    assert engine.generated_tokens == sum(len(completion.token_ids) for completion in expected)


def test_reading_traces_too() -> None:
    model = tiny_world.model()
    texts = [(pivot.tokens, (5, 6, 7)) for pivot in tiny_world.pivots(7)]
    expected = HFEngine(model, 16).greedy_paths(texts)
    with room_for(model, 2), pytest.warns(UserWarning, match="going on with 3"):
        found = HFEngine(model, 16).greedy_paths(texts)
    assert [path.token_ids for path in found] == [path.token_ids for path in expected]


def test_a_batch_of_one_that_does_not_fit_is_the_end() -> None:
    model = tiny_world.model()
    with room_for(model, 0), pytest.raises(CcaError, match="generation: out of memory with a batch of one"):
        HFEngine(model, 2, lambda _: None).complete([Request((3, 4)), Request((5, 6))], 2)


def test_the_allocator_itself_is_recognised() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 52, dtype=torch.uint8)
    assert is_out_of_memory(raised.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_other_errors_are_not_retried() -> None:
    tried = []

    def broken(size: int) -> None:
        tried.append(size)
        raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape mismatch"):
        halving("work", 8, broken, lambda _: None)
    assert tried == [8]
