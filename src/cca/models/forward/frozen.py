"""A model whose weights ask for no gradient, for a while.

Whatever a caller left set, what is trained here is never a parameter of the model: gates, or copies of rows. With
frozen parameters nothing is saved or computed for the others, and none of them collects a ``.grad``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Within the block no parameter of ``model`` requires a gradient; afterwards those that did do again."""
    asking = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in asking:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)
