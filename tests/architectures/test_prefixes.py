"""On every architecture: tokens run behind prefixes give the logits and gradients of the full prompts."""

from __future__ import annotations

import pytest
import torch
from doubles import in_double
from transformers import PreTrainedModel
from zoo import TINY, VOCABULARY

from cca.models.anatomy.anatomy import Anatomy, anatomy_of
from cca.models.forward.gates import gated
from cca.models.forward.prefixes import logits_at, padded, prefill, prefill_own

SHARED = 9  # longer than the zoo's sliding windows of 8
OWN = (3, 0, 5, 11)


@pytest.fixture(scope="module", params=[*TINY, "gemma2-eager"])
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    model = TINY[request.param.removesuffix("-eager")]().double()
    if request.param.endswith("-eager"):
        model.set_attn_implementation("eager")  # transformers' sdpa leaves out Gemma-2's soft cap
    model.set_experts_implementation("eager")  # the default, grouped_mm, has no float64 kernel
    return model


@pytest.fixture(scope="module")
def anatomy(model: PreTrainedModel) -> Anatomy:
    return anatomy_of(model)


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    shared = torch.randint(3, VOCABULARY, (SHARED,), generator=generator).tolist()
    return [shared + torch.randint(3, VOCABULARY, (n + 1,), generator=generator).tolist() for n in OWN]


def test_prefixes_equal_full_prompts(model: PreTrainedModel, anatomy: Anatomy, prompts: list[list[int]]) -> None:
    generator = torch.Generator().manual_seed(2)
    factors = torch.rand(len(prompts), anatomy.size, generator=generator, dtype=torch.float64) + 0.5
    with in_double():
        full = factors.clone().requires_grad_()
        expected = torch.stack([_last_logits(model, anatomy, prompt, full[row]) for row, prompt in enumerate(prompts)])
        (expected_grad,) = torch.autograd.grad(expected.square().sum(), full)

        shared = prefill(model, anatomy, prompts[0][:SHARED])
        batches = prefill_own(model, anatomy, [p[SHARED:-1] for p in prompts], shared, batch_size=2)
        for own in batches:
            rows = list(own.rows)
            part = factors[rows].requires_grad_()
            tokens = torch.tensor([[prompts[row][-1]] for row in rows])
            with gated(model, anatomy, part):
                logits = logits_at(model, anatomy, tokens, shared=shared, own=own)
            (grad,) = torch.autograd.grad(logits.square().sum(), part)
            torch.testing.assert_close(logits, expected[rows], rtol=1e-10, atol=1e-10)
            torch.testing.assert_close(grad, expected_grad[rows], rtol=1e-9, atol=1e-9)
            assert grad.abs().max() > 0


def test_gradient_through_the_shared_prefix(model: PreTrainedModel, anatomy: Anatomy, prompts: list[list[int]]) -> None:
    weights = [parameter for name, parameter in model.named_parameters() if name in anatomy.shapes]
    with in_double():
        expected = torch.stack([_last_logits(model, anatomy, prompt) for prompt in prompts])
        expected_grads = torch.autograd.grad(expected.square().sum(), weights)
        shared = prefill(model, anatomy, prompts[0][:SHARED], with_grad=True)
        tokens, lengths = padded([prompt[SHARED:] for prompt in prompts])
        logits = logits_at(model, anatomy, tokens, lengths, shared=shared)
        grads = torch.autograd.grad(logits.square().sum(), weights)
    torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(grads, expected_grads, rtol=1e-9, atol=1e-9)


def _last_logits(
    model: PreTrainedModel, anatomy: Anatomy, prompt: list[int], factors: torch.Tensor | None = None
) -> torch.Tensor:
    tokens = torch.tensor([prompt])
    if factors is None:
        return model(input_ids=tokens, use_cache=False).logits[0, -1]
    with gated(model, anatomy, factors):
        return model(input_ids=tokens, use_cache=False).logits[0, -1]
