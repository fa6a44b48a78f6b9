"""Decoding many texts behind one long prompt, against `transformers` generate on the same prompts, greedily.

By default on random weights with a large vocabulary and grouped queries. ``--model FOLDER`` measures a real model.
Generate runs twice: on the full prompts, and on a copied cache of the prefix, which it has to be given.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from benchmarks.measuring import Row, quotients, seconds
from benchmarks.models import random_llama
from cca.engines.engine import Request, Tokens
from cca.engines.hf import HFEngine
from cca.models.loading import load_model
from cca.models.memory import keep_freed_memory, peak_memory, reset_peak_memory

SHAPE = {
    "vocab_size": 32_000, "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 6,
    "num_attention_heads": 8, "num_key_value_heads": 2,
}  # fmt: skip
ROWS, SHARED, OWN, NEW = (int(n) for n in os.environ.get("CCA_BENCH_DECODING", "32,600,40,32").split(","))
"""Texts, tokens of the prefix that they share, of each one's own (give or take ten), and new ones."""


def measure(name: str | None = None, dtype: str = "auto") -> list[Row]:
    keep_freed_memory()
    model = load_model(name, dtype=dtype).model if name else random_llama(**SHAPE)
    assert model.generation_config is not None
    model.generation_config.eos_token_id = None
    prompts = random_prompts(min(5000, model.config.get_text_config().vocab_size))
    engine = HFEngine(model, ROWS)
    assert engine.shortcuts.share
    requests = [Request(prompt) for prompt in prompts]

    def ours() -> list[Tokens]:
        return [made.token_ids for made in engine.complete(requests, NEW)]

    copied = with_copied_prefix(model, prompts)
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    reset_peak_memory()
    texts, elapsed = ours(), seconds(ours)
    peak, rate = peak_memory()["cpu"] / 2**30, ROWS * NEW / elapsed
    base = f"{name or 'a random Llama'}, {model.dtype}: {ROWS} texts of {NEW} tokens, {SHARED} shared and {OWN} own"
    details = f"{base}; {rate:,.0f} tokens a second; peak {peak:.2f} GiB, weights {weights / 2**30:.2f} GiB"
    rows = []
    for against, reach, run in (
        ("transformers generate on full prompts", 5.0, lambda: generated(model, prompts)),
        ("transformers generate on a copied prefix cache", 2.0, lambda: copied()),
    ):
        same = sum(a == b for a, b in zip(texts, run(), strict=True))
        sound = same == ROWS or model.dtype is not torch.float32  # in half precision near ties tip
        measured = quotients(run, ours, 3)
        rows.append(Row("tokens per second", against, measured, (">=", reach), f"{details}; {same} texts equal", sound))
    return rows


def random_prompts(vocabulary: int) -> list[Tokens]:
    draw = torch.Generator().manual_seed(0)

    def drawn(count: int) -> Tokens:
        return tuple(torch.randint(3, vocabulary, (count,), generator=draw).tolist())

    begin = drawn(SHARED)
    return [begin + drawn(OWN + int(torch.randint(-10, 11, (1,), generator=draw))) for _ in range(ROWS)]


def generated(model: PreTrainedModel, prompts: list[Tokens], **options: Any) -> list[Tokens]:
    tokens, mask = padded_left(prompts)
    with torch.inference_mode():
        made: Any = model.generate(
            tokens, attention_mask=mask, do_sample=False, max_new_tokens=NEW, pad_token_id=0, **options
        )
    return [tuple(row) for row in made[:, tokens.shape[1] :].tolist()]


def with_copied_prefix(model: PreTrainedModel, prompts: list[Tokens]) -> Callable[[], list[Tokens]]:
    """Generate behind a cache of the prefix with a copy for each row; padding stands between prefix and own tokens."""
    device = model.device
    prefix = DynamicCache(config=model.config)
    with torch.inference_mode():
        model(input_ids=torch.tensor([prompts[0][:SHARED]], device=device), past_key_values=prefix)

    def run() -> list[Tokens]:
        cache = copy.deepcopy(prefix)
        cache.batch_repeat_interleave(len(prompts))
        own, mask = padded_left([prompt[SHARED:] for prompt in prompts])
        whole = torch.cat([torch.tensor([prompts[0][:SHARED]] * len(prompts)), own], dim=1)
        seen = torch.cat([mask.new_ones(len(prompts), SHARED), mask], dim=1)
        with torch.inference_mode():
            made: Any = model.generate(
                whole, attention_mask=seen, past_key_values=cache, do_sample=False, max_new_tokens=NEW, pad_token_id=0
            )
        return [tuple(row) for row in made[:, whole.shape[1] :].tolist()]

    return run


def padded_left(rows: list[Tokens]) -> tuple[Tensor, Tensor]:
    longest = max(map(len, rows))
    tokens = torch.tensor([(0,) * (longest - len(row)) + row for row in rows])
    return tokens, torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
