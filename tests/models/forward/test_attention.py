"""Putting gates and prefixes in place, and taking them away: contexts, faults, delegation, checkpointing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from zoo import tiny

from cca.errors import CcaError
from cca.models.anatomy.anatomy import Anatomy, anatomy_of
from cca.models.forward.gates import gated
from cca.models.forward.prefixes import logits_at, prefill, prefill_own, prefixed

TOKENS = torch.tensor([[5, 9, 3, 7, 11, 4]])


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return tiny("llama")


@pytest.fixture(scope="module")
def anatomy(model: PreTrainedModel) -> Anatomy:
    return anatomy_of(model)


def logits_of(model: PreTrainedModel, tokens: Tensor = TOKENS) -> Tensor:
    return model(input_ids=tokens, use_cache=False).logits


def traces_of(model: PreTrainedModel) -> list[Any]:
    """Everything that contexts may leave behind."""
    modules = list(model.modules())
    return [
        model.config._attn_implementation,
        [sorted(module.__dict__) for module in modules],
        [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in modules],
    ]


def fail_in(model: PreTrainedModel, before: list[Any]) -> None:
    assert traces_of(model) != before
    raise ZeroDivisionError


@pytest.mark.parametrize("name", ["llama", "falcon", "qwen3-moe"])
def test_an_exception_leaves_the_model_as_it_was(name: str) -> None:
    model = tiny(name)
    anatomy = anatomy_of(model)
    before, expected = traces_of(model), logits_of(model)
    shared = prefill(model, anatomy, [5, 9])
    for inside in (
        lambda: gated(model, anatomy, torch.zeros(anatomy.size)),
        lambda: prefixed(model, anatomy, shared=shared),
    ):
        with pytest.raises(ZeroDivisionError), inside():
            fail_in(model, before)
        assert traces_of(model) == before
    with pytest.raises(RuntimeError), prefixed(model, anatomy, shared=shared):
        logits_of(model, torch.tensor([[10**6]]).float())
    assert traces_of(model) == before
    assert torch.equal(logits_of(model), expected)


def test_contexts_nest_either_way_but_not_twice(model: PreTrainedModel, anatomy: Anatomy) -> None:
    shared = prefill(model, anatomy, TOKENS[0, :-1].tolist())
    factors = torch.full((anatomy.size,), 0.5)
    before = traces_of(model)
    with gated(model, anatomy, factors):
        expected = logits_of(model)[:, -1]
        with prefixed(model, anatomy, shared=shared):
            inner = logits_at(model, anatomy, TOKENS[:, -1:])
        with pytest.raises(CcaError, match="gates"), gated(model, anatomy, factors):
            pass
        assert torch.equal(logits_of(model)[:, -1], expected)
    with prefixed(model, anatomy, shared=shared):
        with gated(model, anatomy, factors):
            outer = logits_at(model, anatomy, TOKENS[:, -1:])
        with pytest.raises(CcaError, match="prefixes"), prefixed(model, anatomy, shared=shared):
            pass
    assert traces_of(model) == before
    torch.testing.assert_close(inner, expected)
    torch.testing.assert_close(outer, expected)


def test_two_models_on_one_config_do_not_meet(model: PreTrainedModel, anatomy: Anatomy) -> None:
    other = type(model)(model.config).eval()
    assert other.config is model.config
    expected = logits_of(other)
    with gated(model, anatomy, torch.zeros(anatomy.size)):
        assert torch.equal(logits_of(other), expected)


def test_the_implementation_underneath_sees_its_own_name(model: PreTrainedModel, anatomy: Anatomy) -> None:
    """As flash attention needs: it looks its kernel up by the name in the config."""
    seen = []

    def probe(module: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(module.config._attn_implementation)
        return sdpa_attention_forward(module, *args, **kwargs)

    AttentionInterface.register("probe", probe)
    AttentionMaskInterface.register("probe", sdpa_mask)
    expected = logits_of(model)
    model.set_attn_implementation("probe")
    with gated(model, anatomy, torch.ones(anatomy.size)):
        assert torch.equal(logits_of(model), expected)
    model.set_attn_implementation("sdpa")
    assert seen == ["probe"] * len(anatomy.layers)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed_layers_give_the_same_gradients(reentrant: bool) -> None:
    """The backward pass runs outside of all contexts, and through two passes under different prefixes."""
    model = tiny("gemma2")
    anatomy = anatomy_of(model)
    weights = [parameter for name, parameter in model.named_parameters() if name in anatomy.shapes]

    def gradients() -> tuple[Tensor, ...]:
        shared = prefill(model, anatomy, TOKENS[0, :4].tolist(), with_grad=True)
        loss = logits_at(model, anatomy, TOKENS[:, 4:], shared=shared).square().sum()
        if not reentrant:  # whose own pass knows no autograd.grad; ours is made non-reentrant
            loss = loss + logits_of(model).square().sum()
        return torch.autograd.grad(loss, weights)

    expected = gradients()
    model.train()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()
    calls = count_calls(model)
    torch.testing.assert_close(gradients(), expected)
    passes = 2 if reentrant else 3
    assert calls[0] == 2 * passes * len(anatomy.layers)  # each run again in the backward pass


def test_gates_under_checkpointing_are_refused() -> None:
    model = tiny("llama").train()
    anatomy = anatomy_of(model)
    model.gradient_checkpointing_enable()
    with gated(model, anatomy, torch.ones(anatomy.size)), pytest.raises(CcaError, match="checkpointing"):
        logits_of(model)


def count_calls(model: PreTrainedModel) -> list[int]:
    calls = [0]

    def count(*_: object) -> None:
        calls[0] += 1

    for layer in model.get_decoder().layers:
        layer.self_attn.register_forward_pre_hook(count)
    return calls


def test_checkpointing_a_cached_route_is_refused() -> None:
    model = tiny("falcon")
    anatomy = anatomy_of(model)
    shared = prefill(model, anatomy, [5, 9])
    model.train()
    model.gradient_checkpointing_enable()
    with pytest.raises(CcaError, match="gradient checkpointing"):
        logits_at(model, anatomy, TOKENS, shared=shared)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [("llama", {"attention_dropout": 0.1}, "no dropout"), ("phi3", {"attention_dropout": 0.1}, "no dropout")],
)
def test_dropout_beside_prefixes_is_refused(name: str, change: dict[str, Any], message: str) -> None:
    model = tiny(name)
    for module in model.modules():
        for key, value in change.items():
            if hasattr(module, key):
                setattr(module, key, value)
    anatomy = anatomy_of(model)
    shared = prefill(model, anatomy, [5, 9])
    model.train()
    with pytest.raises(CcaError, match=message):
        logits_at(model, anatomy, TOKENS, shared=shared)


def test_only_new_tokens_go_beside_prefixes(model: PreTrainedModel, anatomy: Anatomy) -> None:
    shared = prefill(model, anatomy, [5, 9])
    with prefixed(model, anatomy, shared=shared), pytest.raises(CcaError, match="attention_mask"):
        model(input_ids=TOKENS, attention_mask=torch.ones_like(TOKENS))
    (own,) = prefill_own(model, anatomy, [[5], [9, 3]])
    with pytest.raises(CcaError, match="2 rows, got 1"):
        logits_at(model, anatomy, TOKENS, own=own)
