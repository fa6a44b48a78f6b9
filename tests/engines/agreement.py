"""Where two engines part, and by how little: the logits or probabilities that a rounding error had to tip."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from cca.engines.decoding import uniforms
from cca.engines.engine import Tokens
from cca.engines.hf import HFEngine
from cca.pivots.pivot import first_difference
from cca.pivots.traces import Grader, Trace
from cca.problems.problem import Problem

Tell = Callable[[str], None]
"""Shows a line, whether the test passes or not."""


def parting(problem: Problem, ours: Trace, theirs: Trace, seed: int, grader: Grader, hf: HFEngine) -> tuple[str, float]:
    """One line on the first token that differs, and how near a tie it was.

    Greedy: by how many logits the first engine's token leads the second's. Sampled: how far, in probability, the
    uniform number lies from the border between two tokens.
    """
    at = first_difference(ours.token_ids, theirs.token_ids)
    if at is None:
        return f"{problem.id} sample {ours.sample}: one text goes on where the other ends", float("inf")
    prefix = (*grader.prompt_ids(problem), *ours.token_ids[:at])
    with torch.inference_mode():
        logits = hf.model(input_ids=torch.tensor([prefix])).logits[0, -1].double()
    if not ours.sample:
        margin = abs(float(logits[ours.token_ids[at]] - logits[theirs.token_ids[at]]))
        return f"{problem.id} greedy, token {at}: {margin:.1e} logits between the two", margin
    borders = (logits / ours.temperature).softmax(-1).cumsum(-1)
    distance = float((borders - uniforms(seed, at + 1)[at]).abs().min())
    return (f"{problem.id} sample {ours.sample}, token {at}: {distance:.1e} of probability from the border", distance)


def same_share(ours: Sequence[object], theirs: Sequence[object]) -> float:
    return sum(a == b for a, b in zip(ours, theirs, strict=True)) / len(ours)


def first_choices_gap(model: PreTrainedModel, prompt: Tokens, ours: Tokens, theirs: Tokens) -> float:
    """By how many logits the model prefers the first token in which two greedy texts differ."""
    at = first_difference(ours, theirs)
    assert at is not None, "one text goes on where the other ends"
    logits = model(input_ids=torch.tensor([prompt + ours[:at]])).logits[0, -1].double()
    return abs(float(logits[ours[at]] - logits[theirs[at]]))


@torch.inference_mode()
def alone(model: PreTrainedModel, text: Tokens, count: int) -> tuple[Tokens, Tensor]:
    """``count`` greedy tokens and the logits (count, V) before each, the whole text read again every time."""
    found = []
    for _ in range(count):
        found.append(model(input_ids=torch.tensor([text]), use_cache=False).logits[0, -1])
        text = (*text, int(found[-1].argmax()))
    return text[-count:], torch.stack(found)
