"""Solutions to train on: gold ones, or the model's own right traces (rejection sampling), and their cross-entropy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from cca.engines.engine import Tokens
from cca.engines.hf import end_tokens
from cca.errors import CcaError
from cca.models.forward.prefixes import padded
from cca.pivots.traces import Grader, Trace
from cca.problems.problem import Problem

IGNORED = -100


@dataclass(frozen=True)
class TrainingText:
    """A prompt and its completion, the end of the text included."""

    prompt: Tokens
    completion: Tokens


def gold_texts(problems: Sequence[Problem], grader: Grader, model: PreTrainedModel) -> list[TrainingText]:
    """The worked solutions of ``problems``. Raises CcaError when there are none."""
    ends = sorted(end_tokens(model))[:1]
    texts = [
        TrainingText(
            grader.prompt_ids(problem), (*grader.codec.encode_continuation(f" {problem.solution}"), *ends)
        )
        for problem in problems
        if problem.solution
    ]
    if not texts:
        raise CcaError("baseline on gold solutions: expected problems with worked solutions, got none")
    return texts


def own_right_texts(
    problems: Sequence[Problem], traces: Sequence[Sequence[Trace]], grader: Grader
) -> list[TrainingText]:
    """All right traces that ended by themselves, greedy or sampled. Raises CcaError when there is none."""
    prompts = {problem.id: problem for problem in problems}
    texts = [
        TrainingText(grader.prompt_ids(prompts[trace.problem]), trace.token_ids)
        for own in traces
        for trace in own
        if trace.right and trace.finished
    ]
    if not texts:
        raise CcaError("baseline on own traces: expected right traces, got none")
    return texts


def batches(texts: Sequence[TrainingText], size: int, seed: int) -> Iterator[list[TrainingText]]:
    """Endless batches of ``size`` texts: every text once per epoch, in an order that the seed fixes."""
    generator = torch.Generator().manual_seed(seed)
    queue: list[int] = []
    while True:
        while len(queue) < min(size, len(texts)):
            queue += torch.randperm(len(texts), generator=generator).tolist()
        yield [texts[index] for index in queue[:size]]
        queue = queue[size:]


def completion_loss(model: PreTrainedModel, batch: Sequence[TrainingText]) -> Tensor:
    """Mean cross-entropy over the completions' tokens, in nats; a differentiable scalar in float32 or wider."""
    token_ids, _ = padded([(*text.prompt, *text.completion)[:-1] for text in batch], model.device)
    labels = torch.full_like(token_ids, IGNORED)
    for row, text in enumerate(batch):
        start = len(text.prompt) - 1
        labels[row, start : start + len(text.completion)] = torch.tensor(text.completion)
    keep = labels != IGNORED
    # Right padding: causal attention never looks at it, so no mask is needed.
    logits = model(input_ids=token_ids, use_cache=False).logits[keep]
    return functional.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), labels[keep])
