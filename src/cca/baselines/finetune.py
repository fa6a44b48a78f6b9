"""Full fine-tuning: every weight of the model trains, and is restored afterwards.

Weights train in the model's own dtype: load the model in float32 for a fair comparison.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import PreTrainedModel


@contextmanager
def unfrozen(model: PreTrainedModel) -> Iterator[dict[str, Tensor]]:
    """Within the block every parameter asks for a gradient; afterwards values and flags are as before."""
    parameters = dict(model.named_parameters())
    before = {name: (p.detach().cpu().clone(), p.requires_grad) for name, p in parameters.items()}
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    try:
        yield dict(parameters)
    finally:
        with torch.no_grad():
            for name, parameter in parameters.items():
                values, asked = before[name]
                parameter.copy_(values)
                parameter.requires_grad_(asked)
                parameter.grad = None
