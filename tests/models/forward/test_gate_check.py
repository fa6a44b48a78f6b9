"""Faults that the check on load must find; that it passes is tested on every architecture."""

from __future__ import annotations

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel
from zoo import tiny

from cca.errors import CcaError
from cca.models.anatomy.anatomy import anatomy_of
from cca.models.forward.gates import check_gates


def test_attention_that_is_not_what_it_seems() -> None:
    """GPT-2 with this option computes attention itself, but only under the name "eager"."""
    config = GPT2Config(
        vocab_size=64,
        n_embd=32,
        n_layer=2,
        n_head=4,
        reorder_and_upcast_attn=True,
        attn_implementation="eager",
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
