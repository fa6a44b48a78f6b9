"""What the benchmarks run on: a random Llama of tinymath's shape with room for long prompts, random pivots, and model
organisms made larger."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from cca.pivots.pivot import Pivot

VOCABULARY = 320
ORGANISMS = Path(__file__).parent / "organisms" / "models"
WHISPER = 0.005
"""What the weights that write to the residual stream are multiplied by where a larger model has more of them."""


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
        pivots.append(Pivot(f"p{number}", "random", common, drawn(length), desired, undesired, True, "branching", 1))
    return pivots


def widened(organism: str, changes: dict[str, Any], out: Path) -> None:
    """Save a model organism with more neurons or layers, which write almost nothing, so that it answers as before."""
    source = ORGANISMS / organism
    small = AutoModelForCausalLM.from_pretrained(source)
    config = AutoConfig.from_pretrained(source)
    config.update(changes)
    torch.manual_seed(0)
    large = AutoModelForCausalLM.from_config(config)
    known = small.state_dict()
    with torch.no_grad():
        for name, weight in large.state_dict().items():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                weight.mul_(WHISPER)
            if name in known:
                weight[tuple(slice(size) for size in known[name].shape)] = known[name]
    large.save_pretrained(out)
    AutoTokenizer.from_pretrained(source).save_pretrained(out)
