"""Completing the base's drafts with an edited model, against generating everything anew, in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel

import tiny_world
from cca.engines.engine import Completion, Draft, GreedyPath, Request, Tokens, complete_drafts, make_drafts
from cca.engines.hf import HFEngine
from cca.errors import CcaError

NEW_TOKENS = 20


def prompts(count: int, shared: int = 0) -> list[Tokens]:
    codec, generator = tiny_world.grader().codec, torch.Generator().manual_seed(1)
    few_shot = tuple(torch.randint(3, 64, (shared,), generator=generator).tolist())
    return [few_shot + codec.encode(problem.prompt) for problem in tiny_world.problems(count)]


def long_enough(text: Sequence[int]) -> bool:
    """A stop rule that depends on the whole text."""
    return len(text) >= 8 and sum(text) % 3 == 0


def edited(model: PreTrainedModel, size: float, seed: int) -> PreTrainedModel:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter.add_(noise, alpha=size * float(parameter.std().nan_to_num() + 1e-3))
    return model


@pytest.mark.parametrize("shared", [0, 20])
@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "qwen3"])
@settings(max_examples=4, deadline=None)
@given(size=st.sampled_from([0.0, 0.003, 0.03, 0.3]), seed=st.integers(0, 99))
def test_the_same_texts_as_generating_all_of_them(name: str, shared: int, size: float, seed: int) -> None:
    wanted = prompts(12, shared)
    requests = [Request(prompt) for prompt in wanted]
    base = HFEngine(tiny_world.model(name), batch_size=5)
    drafts = make_drafts(base, wanted, base.complete(requests, NEW_TOKENS, long_enough))
    assert all(draft.read == draft.completion.token_ids for draft in drafts)

    model = edited(tiny_world.model(name), size, seed)
    plain, drafted = HFEngine(model, batch_size=5), HFEngine(model, batch_size=5)
    expected = plain.complete(requests, NEW_TOKENS, long_enough)
    assert complete_drafts(drafted, drafts, NEW_TOKENS, long_enough) == expected
    kept = sum(a == b for draft, made in zip(drafts, expected, strict=True)
               for a, b in zip(draft.completion.token_ids, made.token_ids, strict=False))  # fmt: skip
    assert drafted.generated_tokens <= plain.generated_tokens
    assert size or drafted.generated_tokens == 0 < kept


def test_what_only_rounding_tips_stands() -> None:
    draft = Draft((5, 6), Completion((7, 8, 9), True), read=(7, 4, 9))
    assert draft.left_at(GreedyPath((7, 4, 9), ())) is None
    assert draft.left_at(GreedyPath((7, 8, 9), ())) is None
    assert draft.left_at(GreedyPath((7, 4, 3), ())) == 2
    assert draft.left_at(GreedyPath((7, 3, 9), ())) == 1


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_a_text_goes_on_from_what_is_written(temperature: float) -> None:
    engine, (prompt, *_) = HFEngine(tiny_world.model()), prompts(1)
    (whole,) = engine.complete([Request(prompt, temperature, 3)], NEW_TOKENS, long_enough)
    text = whole.token_ids
    begun = [Request(prompt + text[:k], written=k) for k in range(len(text))]
    rests = engine.complete(begun, NEW_TOKENS, long_enough)
    for k, rest in enumerate(rests):
        assert len(rest.token_ids) + k <= NEW_TOKENS
        if not temperature:
            assert text[:k] + rest.token_ids == text
            assert rest.finished == whole.finished


@pytest.mark.parametrize("written", [-1, 4, 6, 30])
def test_written_tokens_that_leave_nothing_to_write_are_refused(written: int) -> None:
    request = Request((3, 4, 5, 6, 7, 8), written=written)
    with pytest.raises(CcaError, match=f"expected fewer written tokens than the longest completion .* got {written}"):
        HFEngine(tiny_world.model()).complete([replace(request)], 4)
