"""What a model's own draws are worth to it: the quantity whose gradients, squared, sample its Fisher information."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from cca.engines.engine import Tokens
from cca.models.prefixes import padded, project_only


class Text(NamedTuple):
    """A prompt, and the solution that is asked about."""

    prompt: Tokens
    solution: Tokens


def drawn_log_likelihood(model: PreTrainedModel, texts: Sequence[Text], generator: torch.Generator) -> Tensor:
    """The summed log-probability of one token drawn from the model at each solution position, a scalar.

    Rows are padded on the right to (prompt and solution, without the last token); call under whatever hooks or gates
    the gradient is wanted of. Texts do not interact: what a text alone computes with gets that text's gradient.
    """
    log_probabilities = solution_log_probabilities(model, texts)
    drawn = torch.multinomial(log_probabilities.detach().exp().cpu(), 1, generator=generator)
    return log_probabilities.gather(1, drawn.to(log_probabilities.device)).sum()


def solution_log_probabilities(model: PreTrainedModel, texts: Sequence[Text]) -> Tensor:
    """What the model says at every solution token of every text, (solution tokens, V) in float32 or wider.

    Nothing else is projected to the vocabulary: of a large one, the logits of few-shot prompts would fill the memory.
    """
    token_ids, _ = padded([(*prompt, *solution)[:-1] for prompt, solution in texts], model.device)
    keep = torch.zeros_like(token_ids, dtype=torch.bool)
    for row, (prompt, solution) in enumerate(texts):
        keep[row, len(prompt) - 1 : len(prompt) - 1 + len(solution)] = True
    handle = project_only(model, *keep.nonzero(as_tuple=True))
    try:
        # Right padding: causal attention never looks at it, so no mask is needed.
        logits = model(input_ids=token_ids, use_cache=False).logits[:, 0]
    finally:
        handle.remove()
    wide = torch.promote_types(logits.dtype, torch.float32)
    return logits.to(wide).log_softmax(dim=-1)
