"""Amplify on the tiny model, with verdicts given beforehand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

import tiny_world
from cca.amplify.amplify import Amplified, Validation, amplify
from cca.amplify.settings import AmplifyConfig
from cca.circuits.circuit import Circuit
from cca.gradients.pivot_gradient import OBJECTIVES
from cca.models.anatomy.anatomy import anatomy_of
from cca.models.anatomy.components import Component

PIVOTS = tiny_world.pivots(6)
CIRCUIT = Circuit.of([Component(1, "neuron", 3), Component(0, "q", 1), Component(1, "v", 0)], "test")


def judged(*accuracies: float, drift: float = 1.0, in_budget: Sequence[bool] = ()) -> Callable[[], Validation]:
    """Verdicts in this order, the last one for ever."""

    def verdicts() -> Iterator[Validation]:
        for number in range(10_000):
            at = min(number, len(accuracies) - 1)
            yield Validation(accuracies[at], drift, {}, in_budget[at] if in_budget else True)

    return verdicts().__next__


def run(
    model: PreTrainedModel, validate: Callable[[], Validation], circuit: Circuit = CIRCUIT, **settings: Any
) -> Amplified:
    wanted = AmplifyConfig(**{"predicted_change": 0.01, "steps": 6, "patience": 99, **settings})
    return amplify(model, anatomy_of(model), circuit, PIVOTS, wanted, validate)


def objective_of(model: PreTrainedModel, name: str = "softplus") -> float:
    """The mean objective of the model as it stands."""
    gaps = []
    for pivot in PIVOTS:
        logits = model(input_ids=torch.tensor([pivot.tokens]), use_cache=False).logits[0, -1]
        gaps.append(logits[pivot.desired] - logits[pivot.undesired])
    return float(OBJECTIVES[name](torch.stack(gaps)).mean())


def written(amplified: Amplified, model: PreTrainedModel, read: Callable[[PreTrainedModel], float]) -> float:
    amplified.trained.load(amplified.rows)
    with amplified.trained.written():
        return read(model)
