"""What a model's own draws are worth to it: the quantity whose gradients, squared, sample its Fisher information."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from cca import distributed
from cca.engines.engine import Tokens
from cca.models.forward.prefixes import buckets, padded, project_only

MOST_TEXTS = 16
"""Texts of one forward and backward pass, where memory allows."""


class Text(NamedTuple):
    """A prompt, and the solution that is asked about."""

    prompt: Tokens
    solution: Tokens


def dealt(
    model: PreTrainedModel,
    texts: Sequence[Text],
    batch_size: int,
    samples: int,
    generator: torch.Generator,
) -> Iterator[tuple[list[Text], torch.Generator, bool]]:
    """This rank's batches of ``samples`` readings of every text: the texts, what to draw with, whether they count.

    Draw from each batch before asking for the next. However the batches are shared out, the same tokens are drawn of
    each: for those of other ranks ``generator`` is moved on. All ranks get as many batches
    (`distributed.my_share`).
    """
    batches = samples * buckets([len(prompt) + len(solution) for prompt, solution in texts], batch_size)
    for number, batch in enumerate(batches):
        own = [texts[row] for row in batch]
        if number % distributed.size() == distributed.rank():
            yield own, generator, True
        else:
            _pass_over(model, own, generator)
    for _, counts in distributed.my_share(len(batches)):
        if not counts:
            yield [texts[0]], torch.Generator(), False


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


def _pass_over(model: PreTrainedModel, texts: Sequence[Text], generator: torch.Generator) -> None:
    """Leave the generator as `drawn_log_likelihood` does."""
    wide = torch.promote_types(model.dtype, torch.float32)
    positions = sum(len(solution) for _, solution in texts)
    even = torch.ones((), dtype=wide).expand(positions, model.config.get_text_config().vocab_size)
    torch.multinomial(even, 1, generator=generator)
