"""The objectives: their values, and how they pull at narrow and wide gaps."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from cca.errors import CcaError
from cca.gradients.objectives import OBJECTIVES, LogitObjective, objective

GAPS = torch.tensor([-200.0, -1.0, 0.0, 2.0, 200.0], dtype=torch.float64)


def pull(name: str) -> Tensor:
    """d loss / d gap of each gap."""
    gaps = GAPS.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(objective(name)(gaps).sum(), gaps)
    return gradient


def test_the_logit_gap_pulls_for_ever() -> None:
    assert torch.equal(objective("logit-gap")(GAPS), -GAPS)
    assert pull("logit-gap").tolist() == [-1.0] * 5


def test_softplus_is_the_loss_of_choosing_between_the_two_tokens() -> None:
    losses = objective("softplus")(GAPS)
    for gap, loss in zip(GAPS.tolist()[1:4], losses.tolist()[1:4], strict=True):
        assert loss == pytest.approx(-math.log(1 / (1 + math.exp(-gap))))
    assert losses[0] == 200
    assert losses[-1] < 1e-80  # of a wide gap neither loss nor pull is left, and nothing overflows
    assert pull("softplus").tolist() == pytest.approx([-1.0, -0.7310586, -0.5, -0.1192029, 0.0], abs=1e-7)


def test_objectives_of_gaps_are_not_taken_for_objectives_of_logits() -> None:
    assert not any(isinstance(function, LogitObjective) for function in OBJECTIVES.values())


def test_another_name_is_refused() -> None:
    with pytest.raises(CcaError, match=r"expected one of logit-gap, softplus.*, got 'hinge'"):
        objective("hinge")
