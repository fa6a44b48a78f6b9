"""Selective attribution: what moves the pivots, for what it costs elsewhere.

1. Attribution g: the gradient of the mean logit gap with respect to the gates at "no change" (`attribution`).
2. Sensitivity F: the diagonal of the gates' Fisher information on text of other skills. Of each text's solution tokens
   one is drawn from the model's own distribution at each position; the gradient of the sum of their log-probabilities
   with respect to gates at all positions, squared, is an unbiased sample of the text's Fisher information.
3. Score = |g| / sqrt(F + damping * mean F). Moving gate i by d costs about F d^2 / 2 nats a token there.

One forward and backward pass a batch of texts gives every text its own gradient, as each row has its own factors.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from cca import distributed
from cca.errors import CcaError
from cca.gradients.sampled_likelihood import MOST_TEXTS, Text, dealt, drawn_log_likelihood
from cca.models.anatomy.anatomy import Anatomy
from cca.models.forward.frozen import frozen
from cca.models.forward.gates import gated

DAMPING = 0.01


def gate_fisher(
    model: PreTrainedModel,
    anatomy: Anatomy,
    texts: Sequence[Text],
    generator: torch.Generator,
    batch_size: int = MOST_TEXTS,
    samples: int = 1,
) -> Tensor:
    """Sampled diagonal Fisher information of the gates, a token, (anatomy.size,) in float32 or wider, on the CPU.

    ``samples`` draws are taken of every text. Raises CcaError without texts.
    """
    texts = [text for text in texts if text[0] and text[1]]
    if not texts:
        raise CcaError("selective: expected text of other skills to spare, got none; add retention sets")
    wide = torch.promote_types(model.dtype, torch.float32)
    total = torch.zeros(anatomy.size, dtype=wide, device=model.device)
    with frozen(model):
        for rows, drawing, counts in dealt(model, texts, batch_size, samples, generator):
            squared = _squared_gradients(model, anatomy, rows, drawing)
            if counts:
                total += squared
    distributed.all_reduce_(total)
    return (total / (samples * sum(len(solution) for _, solution in texts))).cpu()


def selective_scores(gradient: Tensor, fisher: Tensor, damping: float = DAMPING) -> Tensor:
    """|gradient| / sqrt(fisher + damping * mean fisher), (anatomy.size,)."""
    return (
        gradient.abs() / (fisher + damping * fisher.mean()).clamp_min(torch.finfo(fisher.dtype).tiny).sqrt()
    )


def _squared_gradients(
    model: PreTrainedModel, anatomy: Anatomy, texts: Sequence[Text], generator: torch.Generator
) -> Tensor:
    """The sum over texts of the squared gradients of their drawn tokens' log-probability, (anatomy.size,)."""
    wide = torch.promote_types(model.dtype, torch.float32)
    factors = torch.ones(len(texts), anatomy.size, dtype=wide, device=model.device, requires_grad=True)
    with gated(model, anatomy, factors, positions="all"):
        likelihood = drawn_log_likelihood(model, texts, generator)
    (gradient,) = torch.autograd.grad(likelihood, factors)
    return gradient.square().sum(dim=0)
