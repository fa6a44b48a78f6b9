"""The pivot objective's gradient for whatever of a model asks for one: adapters, or every weight."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from transformers import PreTrainedModel

from cca.gradients.objectives import objective
from cca.gradients.pivot_gradient import add_pivot_gradient
from cca.models.anatomy.anatomy import Anatomy
from cca.pivots.pivot import Pivot


class AsItIs:
    """What is trained is part of the model already: every parameter that asks for a gradient."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.leaves = [parameter for parameter in model.parameters() if parameter.requires_grad]

    @contextmanager
    def active(self) -> Iterator[None]:
        yield


def add_gradient_of_pivots(
    model: PreTrainedModel, anatomy: Anatomy, pivots: Sequence[Pivot], name: str, batch_size: int
) -> tuple[float, float]:
    """Add the gradient of the mean objective to every parameter that asks; returns (objective, mean logit gap)."""
    return add_pivot_gradient(model, anatomy, AsItIs(model), pivots, objective(name), batch_size)
