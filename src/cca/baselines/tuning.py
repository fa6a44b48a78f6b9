"""Adam on given tensors, validated as it goes: the training loop of all baselines."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import PreTrainedModel

from cca.amplify.amplify import StepRecord, Validation, better
from cca.baselines.settings import BaselineSettings


class AsItIs:
    """The parameters of the model that ask for a gradient: adapters, or all weights."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.leaves = [parameter for parameter in model.parameters() if parameter.requires_grad]

    @contextmanager
    def active(self) -> Iterator[None]:
        yield


def tune(
    tensors: Mapping[str, Tensor],
    add_gradient: Callable[[], tuple[float, float | None]],
    settings: BaselineSettings,
    validate: Callable[[], Validation],
    on_step: Callable[[StepRecord], None],
) -> None:
    """Train ``tensors``; ``add_gradient`` adds their gradient and returns (loss, mean logit gap).

    Step 0, the untouched model, is validated too. Ends after ``settings.steps``, when patience runs out, or when
    the loss or gradient stops being finite.
    """
    adam = torch.optim.Adam(tensors.values(), lr=settings.learning_rate)
    best = validate()
    on_step(StepRecord(0, None, None, best))
    stale = 0
    for step in range(1, settings.steps + 1):
        adam.zero_grad()
        loss, gap = add_gradient()
        gradients = [tensor.grad for tensor in tensors.values() if tensor.grad is not None]
        if not math.isfinite(loss) or not all(bool(gradient.isfinite().all()) for gradient in gradients):
            break
        adam.step()
        if step % settings.validate_every:
            continue
        validation = validate()
        on_step(StepRecord(step, loss, gap, validation))
        if better(validation, best):
            best, stale = validation, 0
        else:
            stale += 1
        if stale >= settings.patience:
            break
    adam.zero_grad()
