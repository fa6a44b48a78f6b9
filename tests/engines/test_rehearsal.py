"""The rehearsal: shortcuts that a model does not bear are off, and what comes out is what the model says alone."""

from __future__ import annotations

import pytest
import torch
import zoo
from agreement import alone
from transformers import (
    AutoModelForCausalLM,
    LlamaForCausalLM,
    OpenAIGPTConfig,
    OpenAIGPTLMHeadModel,
    Phi3Config,
    PreTrainedModel,
)
from zoo import RARE, TINY

from cca.engines.engine import Request, Tokens
from cca.engines.hf import HFEngine
from cca.engines.rehearsal import rehearse
from cca.engines.rows import Shortcuts
from cca.errors import CcaError
from cca.models.anatomy.anatomy import anatomy_of

LINEAR = ("minimax", "lfm2", "qwen3-next", "qwen3.5")
QUICK = ("llama", "mistral", "mpt", "gpt-neo", "llama4", *LINEAR)
"""What the unit tier looks at; the integration tier takes the whole zoo."""
REST = [pytest.param(name, marks=pytest.mark.integration) for name in (*TINY, *RARE) if name not in QUICK]


def gpt1() -> PreTrainedModel:
    return zoo.energise(OpenAIGPTLMHeadModel(OpenAIGPTConfig(**zoo.OLD)), 0)


def longrope() -> PreTrainedModel:
    rope = {
        "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 4,
        "long_factor": [4.0, 3.0, 2.0, 5.0], "original_max_position_embeddings": 16,
        "partial_rotary_factor": 1.0,
    }  # fmt: skip
    config = Phi3Config(
        **{**zoo.GQA, "original_max_position_embeddings": 16, "max_position_embeddings": 64, "rope_parameters": rope}
    )
    return zoo.energise(AutoModelForCausalLM.from_config(config, dtype=torch.float32), 0)


class WithoutArguments(LlamaForCausalLM):
    """As code of a model's own may be: nothing but what it needs."""

    def forward(self, input_ids, attention_mask=None, position_ids=None, past_key_values=None, use_cache=None):
        return super().forward(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids,
            past_key_values=past_key_values, use_cache=use_cache,
        )  # fmt: skip


def texts(shared: int) -> list[Tokens]:
    draw = torch.Generator().manual_seed(1)
    begin = torch.randint(3, 64, (shared,), generator=draw).tolist()
    return [(*begin, *torch.randint(3, 64, (length,), generator=draw).tolist()) for length in (3, 5, 8, 9, 14, 25)]


@pytest.mark.parametrize("name", [*QUICK, "gpt1", "longrope", *REST])
@pytest.mark.parametrize("shared", [0, 20])
def test_what_is_said_is_what_the_model_says_alone(name: str, shared: int) -> None:
    made = {**TINY, **RARE, "gpt1": gpt1, "longrope": longrope}
    model = made[name]()
    assert model.generation_config is not None
    model.generation_config.eos_token_id = None
    prefixes, said = texts(shared), list[str]()
    engine = HFEngine(model, 4, said.append)
    wanted = [alone(model, prefix, 8)[0] for prefix in prefixes]
    found = engine.complete([Request(prefix) for prefix in prefixes], 8)
    assert [completion.token_ids for completion in found] == wanted
    paths = engine.greedy_paths(list(zip(prefixes, wanted, strict=True)))
    assert [path.token_ids for path in paths] == wanted
    # one line says which shortcut is off
    assert len(said) == (name in ("mpt", "gpt-neo", "llama4", "gpt1", "longrope", *LINEAR))


def test_samples_do_not_depend_on_the_batch_across_the_switch_of_rotary_factors() -> None:
    model = longrope()
    assert model.generation_config is not None
    model.generation_config.eos_token_id = None
    requests = [Request(prefix, 1.0, seed) for seed, prefix in enumerate(texts(0))]
    together = HFEngine(model).complete(requests, 12)
    assert together == [HFEngine(model).complete([request], 12)[0] for request in requests]
    assert {len(completion.token_ids) for completion in together} == {12}


@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma2", "mixtral", "gpt2", "bloom", "falcon-mha"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_sound_models_keep_their_shortcuts(name: str, dtype: torch.dtype) -> None:
    model = TINY[name]().to(dtype)
    assert rehearse(model, anatomy_of(model)) == (Shortcuts(direct=name not in ("bloom", "falcon-mha")), "")


def test_arguments_that_a_model_does_not_know_are_left_out() -> None:
    model = TINY["llama"]()
    expected = HFEngine(model).complete([Request(prefix) for prefix in texts(20)], 5)
    model.__class__ = WithoutArguments
    assert HFEngine(model).complete([Request(prefix) for prefix in texts(20)], 5) == expected


def test_a_model_whose_code_fails_is_refused_in_one_line() -> None:
    model = TINY["llama"]()

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no kernel\nfor this")

    model.model.layers[0].self_attn.forward = broken
    with pytest.raises(CcaError, match=r"^LlamaForCausalLM cannot be decoded here \(no kernel for this\)"):
        HFEngine(model).complete([Request((3, 4))], 2)


def test_a_model_that_says_nan_is_refused() -> None:
    model = TINY["llama"]()
    model.requires_grad_(False).lm_head.weight.mul_(1e38)  # finite, as its states are
    with pytest.raises(CcaError, match=r"cannot be decoded here \(it gives NaN in torch.float32\)"):
        HFEngine(model).complete([Request((3, 4))], 2)
