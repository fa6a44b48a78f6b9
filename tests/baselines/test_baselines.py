"""Baselines: what they train, what they leave behind, and their gradients against naive twins."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from doubles import in_double
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

import tiny_world
from cca.amplify.amplify import StepRecord, Validation, make_gradient
from cca.amplify.settings import AmplifyConfig
from cca.baselines import baseline_settings
from cca.baselines.training import (
    AsItIs,
    Edit,
    TrainingText,
    batches,
    completion_loss,
    lora,
    scaled_rows,
    tune,
    unfrozen,
)  # fmt: skip
from cca.circuits.circuit import Circuit
from cca.errors import CcaError
from cca.models.anatomy.anatomy import Anatomy, anatomy_of
from cca.models.anatomy.components import Component
from cca.models.forward.gates import gated
from cca.pivots.pivot import Pivot

TOKENS = torch.tensor([[5, 9, 11, 3, 8, 21, 7]])
Place = Callable[[PreTrainedModel], AbstractContextManager[dict[str, Tensor]]]
PLACES: dict[str, Place] = {"lora": lambda model: lora(model, 2, None, 0), "finetune": unfrozen}


def pivot_gradient(model: PreTrainedModel, anatomy: Anatomy, pivots: list[Pivot]) -> tuple[float, float]:
    return make_gradient(model, anatomy, pivots, AmplifyConfig(), [], 2)(AsItIs(model))


def logits(model: PreTrainedModel) -> Tensor:
    with torch.no_grad():
        return model(input_ids=TOKENS, use_cache=False).logits


@pytest.mark.parametrize("how", PLACES)
@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen3"])
def test_training_moves_the_model_and_leaves_no_trace_afterwards(name: str, how: str) -> None:
    model = tiny_world.model(name, torch.float32)
    anatomy, before = anatomy_of(model), logits(model)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    pivots = tiny_world.pivots(4)
    for _ in range(2):  # a second time, as the next arm does
        with PLACES[how](model) as tensors:
            torch.testing.assert_close(logits(model), before, rtol=0, atol=0)
            seen: list[StepRecord] = []
            tune(
                tensors, lambda: pivot_gradient(model, anatomy, pivots),
                baseline_settings({"steps": 3, "learning_rate": 0.01}),
                lambda: Validation(0.5, 0.0, {}, True), seen.append,
            )  # fmt: skip
            assert not torch.equal(logits(model), before)
            losses = [record.objective for record in seen[1:] if record.objective is not None]
            assert len(losses) == 3
            assert losses[-1] < losses[0]
            edit = Edit.of_tensors(tensors)
            moved = logits(model)
            with torch.no_grad():
                for tensor in tensors.values():
                    tensor.zero_()
            with edit.applied():
                torch.testing.assert_close(logits(model), moved, rtol=0, atol=0)
        assert model.state_dict().keys() == state.keys()
        assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
        assert not any(parameter.requires_grad for parameter in model.parameters())


def test_lora_gradient_on_pivots_is_that_of_whole_prompts() -> None:
    model = tiny_world.model()
    anatomy, shared = anatomy_of(model), list(range(3, 25))
    pivots = tiny_world.pivots(3, shared=shared)
    with in_double(), lora(model, 2, None, 0) as tensors:
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for tensor in tensors.values():
                tensor += 0.1 * torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        loss, _ = pivot_gradient(model, anatomy, pivots)
        found = {name: tensor.grad for name, tensor in tensors.items()}
        gaps = []
        for pivot in pivots:
            last = model(input_ids=torch.tensor([pivot.tokens]), use_cache=False).logits[0, -1]
            gaps.append(last[pivot.desired] - last[pivot.undesired])
        naive = functional.softplus(-torch.stack(gaps)).mean()
        wanted = torch.autograd.grad(naive, list(tensors.values()), allow_unused=True)
    assert loss == pytest.approx(float(naive.detach()), rel=1e-9)
    for name, gradient in zip(tensors, wanted, strict=True):
        if gradient is not None:
            assert found[name] is not None
            torch.testing.assert_close(found[name], gradient, rtol=1e-6, atol=1e-10)


def test_completion_loss_counts_the_completions_tokens_alone() -> None:
    model = tiny_world.model()
    texts = [TrainingText((5, 6, 7), (8, 9, 2)), TrainingText((9,), (4, 2))]
    total, tokens = 0.0, 0
    for text in texts:
        whole = (*text.prompt, *text.completion)
        log_p = model(input_ids=torch.tensor([whole]), use_cache=False).logits[0].log_softmax(-1)
        for place in range(len(text.prompt), len(whole)):
            total -= float(log_p[place - 1, whole[place]])
            tokens += 1
    assert float(completion_loss(model, texts)) == pytest.approx(total / tokens, rel=1e-6)


def test_batches_take_every_text_once_an_epoch_in_a_seeded_order() -> None:
    texts = [TrainingText((number,), (1,)) for number in range(5)]

    def first(seed: int) -> list[int]:
        drawn = batches(texts, 2, seed)
        return [text.prompt[0] for _ in range(5) for text in next(drawn)]

    assert sorted(first(0)[:5]) == sorted(first(0)[5:]) == [0, 1, 2, 3, 4]
    assert first(0) == first(0)
    assert first(0) != first(1)
    assert len(next(batches(texts, 99, 0))) <= 99


@pytest.mark.parametrize("name", ["llama-biased", "gpt2", "phi3", "qwen3"])
def test_scaling_weights_is_scaling_activations_at_every_position(name: str) -> None:
    model = tiny_world.model(name)
    anatomy = anatomy_of(model)
    circuit = Circuit.of([Component(0, "v", 1), Component(1, "neuron", 4), Component(0, "neuron", 7)], "test")
    factors = torch.ones(anatomy.size, dtype=torch.float64)
    factors[[anatomy.index(component) for component in circuit.components]] = 1.7
    with in_double(), torch.no_grad():
        with gated(model, anatomy, factors, positions="all"):
            expected = logits(model)
        before = logits(model)
        with Edit.of_rows(model, scaled_rows(anatomy, circuit)).applied(1.7):
            torch.testing.assert_close(logits(model), expected)
        torch.testing.assert_close(logits(model), before, rtol=0, atol=0)
        assert not torch.allclose(before, expected)
    with pytest.raises(CcaError, match="got q heads"):
        scaled_rows(anatomy, Circuit.of([Component(0, "q", 0)], "test"))
