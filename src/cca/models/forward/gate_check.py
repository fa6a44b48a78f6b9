"""A check on load: gates at the neutral value change nothing, and gates of every kind reach the logits."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from cca.errors import CcaError
from cca.models.anatomy.anatomy import KINDS, Anatomy
from cca.models.forward.gates import gated

TOKENS = 8


def check_gates(model: PreTrainedModel, anatomy: Anatomy) -> None:
    """Run a few tokens plain and under neutral gates, with one backward pass to the gates.

    Raises CcaError when a neutral gate moves a logit by a single bit, or when all gates of a kind in a layer
    leave the logits as they are: then the anatomy is not the model's, or its attention is not what it seems.
    """
    vocabulary = model.config.get_text_config().vocab_size
    device = next(model.parameters()).device
    tokens = torch.arange(1, TOKENS + 1, device=device)[None] % vocabulary
    factors = torch.ones(anatomy.size, device=device, requires_grad=True)
    with torch.no_grad():
        plain = _logits(model, tokens)
        repeatable = torch.equal(plain, _logits(model, tokens))  # some CUDA kernels are not
    with torch.enable_grad(), gated(model, anatomy, factors):
        logits = _logits(model, tokens)
        (moved,) = torch.autograd.grad(logits[0, -1].float().logsumexp(-1), factors)
    change = float((logits - plain).detach().abs().max())
    ask = "set `anatomy` (docs/adding-your-model.md) or `attn_implementation: eager`"
    if repeatable and change > 0:
        raise CcaError(
            f"{anatomy.model_type}: expected neutral gates to change no logit, got a change of {change:.3g}; {ask}"
        )
    for layer in anatomy.layers:
        for kind in KINDS:
            if layer.count(kind) and not moved[anatomy.span(layer.index, kind)].any():
                raise CcaError(
                    f"{anatomy.model_type}, {layer.module}: expected gates of {kind} to reach the logits, "
                    f"got no effect; {ask}"
                )


def _logits(model: PreTrainedModel, tokens: Tensor) -> Tensor:
    return model(input_ids=tokens, use_cache=False).logits
