"""A model that runs out of memory when more than so many rows are computed at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel


@contextmanager
def room_for(model: PreTrainedModel, rows: int) -> Iterator[None]:
    """A device on which the model's first layer fits ``rows`` rows."""

    def check(_: nn.Module, args: tuple[Any, ...]) -> None:
        if len(args[0]) > rows:
            raise torch.OutOfMemoryError(f"tried to allocate {len(args[0])} rows")

    hook = model.get_submodule("model.layers.0.mlp").register_forward_pre_hook(check)
    try:
        yield
    finally:
        hook.remove()
