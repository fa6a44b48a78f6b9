"""Log-likelihood of tokens sampled from the model; its squared gradients estimate the Fisher information."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from cca import distributed
from cca.engines.engine import Tokens
from cca.errors import CcaError
from cca.models.forward.prefixes import buckets, most_tokens, padded, project_only
from cca.models.precision import wide, wide_dtype

MOST_TEXTS = 16
"""Texts per forward and backward pass, where memory allows."""


class Text(NamedTuple):
    """A prompt, and the solution whose tokens are predicted after it."""

    prompt: Tokens
    solution: Tokens


def usable_texts(texts: Sequence[Text], what: str) -> list[Text]:
    """The texts that have a prompt and a solution. Raises CcaError that begins with ``what`` where there are none."""
    usable = [text for text in texts if text[0] and text[1]]
    if not usable:
        raise CcaError(f"{what}: expected text of other skills, got none; add retention sets")
    return usable


def deal_batches(
    model: PreTrainedModel, texts: Sequence[Text], batch_size: int, samples: int, generator: torch.Generator
) -> Iterator[tuple[list[Text], torch.Generator, bool]]:
    """This process's batches of ``samples`` readings of every text: (texts, generator to sample with, counts).

    Sample from each batch before asking for the next. The same tokens are sampled however the batches are dealt out:
    ``generator`` is moved on for those of other processes. All processes get the same number of batches
    (`distributed.my_share`); those that only fill up do not count.
    """
    lengths = [len(prompt) + len(solution) for prompt, solution in texts]
    batches = samples * buckets(lengths, batch_size, most_tokens(model))
    for number, batch in enumerate(batches):
        own = [texts[row] for row in batch]
        if number % distributed.size() == distributed.rank():
            yield own, generator, True
        else:
            _skip(model, own, generator)
    for _, counts in distributed.my_share(len(batches)):
        if not counts:
            yield [texts[0]], torch.Generator(), False


def sampled_log_likelihood(model: PreTrainedModel, texts: Sequence[Text], generator: torch.Generator) -> Tensor:
    """The summed log-probability, in nats, of one token sampled from the model at each solution position; a scalar.

    Call it under the hooks or gates whose gradient is wanted. Rows are padded on the right to (prompt and solution,
    without the last token). Texts do not interact: a parameter that only one text computes with gets that text's
    gradient.
    """
    log_probabilities = solution_log_probabilities(model, texts)
    sampled = torch.multinomial(log_probabilities.detach().exp().cpu(), 1, generator=generator)
    return log_probabilities.gather(1, sampled.to(log_probabilities.device)).sum()


def solution_log_probabilities(model: PreTrainedModel, texts: Sequence[Text]) -> Tensor:
    """The model's log-probabilities at every solution token of every text, (solution tokens, V) in float32 or wider.

    Nothing else is projected to the vocabulary: the logits of few-shot prompts would fill the memory when it is large.
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
    return wide(logits).log_softmax(dim=-1)


def _skip(model: PreTrainedModel, texts: Sequence[Text], generator: torch.Generator) -> None:
    """Leave the generator as `sampled_log_likelihood` does."""
    positions = sum(len(solution) for _, solution in texts)
    even = torch.ones((), dtype=wide_dtype(model.dtype)).expand(positions, model.config.get_text_config().vocab_size)
    torch.multinomial(even, 1, generator=generator)
