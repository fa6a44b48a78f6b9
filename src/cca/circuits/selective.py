"""Selective attribution: the effect of a component on the pivots relative to its cost elsewhere.

1. Attribution g: the gradient of the mean logit gap with respect to the gates at "no change" (`attribution`).
2. Sensitivity F: the diagonal of the gates' Fisher information on text of other skills. At each solution position of a
   text one token is sampled from the model's own distribution; the gradient of the sum of their log-probabilities with
   respect to gates at all positions, squared, is an unbiased sample of the text's Fisher information.
3. Score = |g| / sqrt(F + damping * mean F). Moving gate i by d costs about F d^2 / 2 nats per token there.

One forward and backward pass per batch of texts gives every text its own gradient, as each row has its own factors.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from cca import distributed
from cca.errors import CcaError
from cca.gradients.sampled_likelihood import MOST_TEXTS, Text, deal_batches, sampled_log_likelihood
from cca.models.anatomy.anatomy import Anatomy
from cca.models.forward.gates import frozen_weights, gated

DAMPING = 0.01


def gate_fisher(
    model: PreTrainedModel,
    anatomy: Anatomy,
    texts: Sequence[Text],
    generator: torch.Generator,
    batch_size: int = MOST_TEXTS,
    samples: int = 1,
) -> Tensor:
    """Sampled diagonal Fisher information of the gates, (anatomy.size,) in float32 or wider, on the CPU.

    In nats per solution token and squared factor. Every text is sampled ``samples`` times. Raises CcaError without
    texts.
    """
    texts = [text for text in texts if text[0] and text[1]]
    if not texts:
        raise CcaError("selective: expected text of other skills, got none; add retention sets")
    wide = torch.promote_types(model.dtype, torch.float32)
    total = torch.zeros(anatomy.size, dtype=wide, device=model.device)
    with frozen_weights(model):
        for rows, own_generator, counts in deal_batches(model, texts, batch_size, samples, generator):
            squared = _squared_gradients(model, anatomy, rows, own_generator)
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
    """The sum over texts of the squared gradients of their sampled tokens' log-probability, (anatomy.size,)."""
    wide = torch.promote_types(model.dtype, torch.float32)
    factors = torch.ones(len(texts), anatomy.size, dtype=wide, device=model.device, requires_grad=True)
    with gated(model, anatomy, factors, positions="all"):
        likelihood = sampled_log_likelihood(model, texts, generator)
    (gradient,) = torch.autograd.grad(likelihood, factors)
    return gradient.square().sum(dim=0)
