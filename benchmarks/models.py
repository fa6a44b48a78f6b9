"""What the benchmarks run on: a random Llama of tinymath's shape with room for long prompts, and random pivots."""

from __future__ import annotations

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from cca.pivots.pivot import Pivot

VOCABULARY = 320


def random_llama(**changes: int) -> PreTrainedModel:
    """0.83M parameters: 4 layers of width 128, 4 heads, 2 KV heads, 384 neurons."""
    shape = {
        "vocab_size": VOCABULARY,
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        **changes,
    }
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(tie_word_embeddings=True, **shape)).eval().requires_grad_(False)


def random_pivots(count: int, shared: int, own: int, seed: int = 0) -> list[Pivot]:
    """Pivots whose prompts are ``shared`` tokens that all have, and ``own`` of their own, give or take ten."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, VOCABULARY, (length,), generator=generator).tolist())

    common, pivots = drawn(shared), []
    for number in range(count):
        length = own + int(torch.randint(-10, 11, (1,), generator=generator))
        desired, undesired = drawn(2)
        pivots.append(
            Pivot(f"p{number}", "random", common, drawn(length), desired, undesired, True, "branching", 1)
        )
    return pivots
