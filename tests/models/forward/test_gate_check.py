"""Faults that the check on load must find; that it passes is tested on every architecture."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, PreTrainedModel
from zoo import RARE, energise, tiny

from cca.errors import CcaError
from cca.models.anatomy.anatomy import anatomy_of
from cca.models.forward.gates import check_gates


def test_attention_that_is_not_what_it_seems() -> None:
    """GPT-2 with this option computes attention itself, but only under the name "eager"."""
    config = GPT2Config(
        vocab_size=64, n_embd=32, n_layer=2, n_head=4, reorder_and_upcast_attn=True, attn_implementation="eager"
    )
    torch.manual_seed(0)
    model = GPT2LMHeadModel(config).eval().to(torch.bfloat16)
    with pytest.raises(CcaError, match="neutral gates to change no logit"):
        check_gates(model, anatomy_of(model))


def test_gates_that_reach_nothing() -> None:
    model = tiny("llama")
    anatomy = anatomy_of(model)
    model.model.layers[1].self_attn.o_proj.weight.data.zero_()
    with pytest.raises(CcaError, match=r"layers\.1: expected gates of q to reach the logits"):
        check_gates(model, anatomy)


def refusal(model: PreTrainedModel) -> str:
    """The message that refuses the model; empty when its gates are accepted."""
    try:
        check_gates(model, anatomy_of(model))
    except CcaError as error:
        return str(error)
    return ""


def test_a_mask_passed_by_name_reaches_attention() -> None:
    """Doge's attention calls the interface with ``attention_mask=``."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "doge", vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2,
    )  # fmt: skip
    model = energise(AutoModelForCausalLM.from_config(config).eval(), 0)
    model.set_attn_implementation("eager")
    check_gates(model, anatomy_of(model))
    model.set_attn_implementation("sdpa")  # which it computes by other means under our name
    assert "neutral gates to change no logit" in refusal(model)


@pytest.mark.parametrize("name", RARE)
def test_rare_architectures_are_gated_or_refused_in_one_line(name: str) -> None:
    assert "\n" not in refusal(RARE[name]())


def test_experts_that_route_by_themselves_are_refused() -> None:
    model = tiny("llama4")
    with pytest.raises(CcaError, match="expected experts that are called with tokens, choices and weights"):
        check_gates(model, anatomy_of(model))


def test_a_fault_in_the_models_own_code_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("llama")

    def broken(*_: object, **__: object) -> None:
        raise ValueError("not enough values\nto unpack")

    anatomy = anatomy_of(model)
    monkeypatch.setattr(model.model.layers[1].mlp, "forward", broken)
    with pytest.raises(CcaError, match=r"llama: expected a forward pass .* got ValueError \(not enough values\)"):
        check_gates(model, anatomy)
