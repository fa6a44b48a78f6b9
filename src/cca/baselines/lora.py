"""LoRA on every linear layer, through peft, put on a loaded model and taken off again."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import PreTrainedModel


@contextmanager
def lora(model: PreTrainedModel, rank: int, alpha: int | None, seed: int) -> Iterator[dict[str, Tensor]]:
    """Within the block ``model`` computes with fresh adapters, which change nothing until they are trained.

    Yields the adapters' tensors, in float32 or wider, the only ones that ask for a gradient. Afterwards the model is as
    it was. peft samples from torch's global generator, which is seeded for that alone.
    """
    asking = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    config = LoraConfig(
        r=rank, lora_alpha=alpha or 2 * rank, lora_dropout=0.0, target_modules="all-linear", bias="none"
    )
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="fan_in_fan_out")  # peft sees to GPT-2's Conv1D by itself
        torch.manual_seed(seed)
        adapted = get_peft_model(model, config)
    adapted.eval()
    try:
        yield {name: p for name, p in adapted.named_parameters() if p.requires_grad}
    finally:
        adapted.unload()
        if hasattr(model, "peft_config"):
            del model.peft_config
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(asking[name])
