"""The steps of amplify: how long they are, along what, and how they are halved."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

import tiny_world
from cca.amplify.amplify import Validation, amplify
from cca.amplify.settings import AmplifyConfig
from cca.gradients.pivot_gradient import OBJECTIVES, add_pivot_gradient
from cca.gradients.trainable_rows import TrainableRows
from cca.models.anatomy.anatomy import anatomy_of
from tiny_steps import CIRCUIT, PIVOTS, judged, objective_of, run, written


@pytest.fixture
def model() -> PreTrainedModel:
    return tiny_world.model(dtype=torch.float32)


@pytest.mark.parametrize("objective", ["softplus", "logit-gap"])
@pytest.mark.parametrize("change", [1e-4, 1e-3])
def test_the_first_step_changes_the_objective_by_what_was_asked(objective: str, change: float) -> None:
    model = tiny_world.model()
    first = run(model, judged(0.5, 0.6), steps=1, predicted_change=change, objective=objective)
    before = objective_of(model, objective)
    after = written(first, model, lambda model: objective_of(model, objective))
    assert before - after == pytest.approx(change, rel=0.05)


def test_the_coefficient_is_set_by_the_first_gradient_and_kept(model: PreTrainedModel) -> None:
    two = run(model, judged(0.5, 0.6, 0.7), steps=2)
    by_hand = TrainableRows(model, anatomy_of(model).rows(CIRCUIT.components))
    coefficient = None
    for _ in range(2):
        add_pivot_gradient(model, anatomy_of(model), by_hand, PIVOTS, OBJECTIVES["softplus"], 32)
        squared = sum(
            float(master.grad.square().sum()) for master in by_hand.masters.values() if master.grad is not None
        )
        coefficient = coefficient or 0.01 / squared
        for master in by_hand.masters.values():
            assert master.grad is not None
            with torch.no_grad():
                master -= coefficient * master.grad
            master.grad = None
    assert two.coefficient == pytest.approx(coefficient, rel=1e-6)
    for key, rows in two.rows.items():
        torch.testing.assert_close(rows, by_hand.masters[key].detach(), rtol=1e-6, atol=1e-8)


def test_a_fixed_coefficient_goes_before_a_predicted_change(model: PreTrainedModel) -> None:
    fixed = run(model, judged(0.5, 0.6), steps=1, coefficient=1e-3)
    assert fixed.coefficient == 1e-3
    moved = sum(float((rows - fixed.trained.before[key]).abs().sum()) for key, rows in fixed.rows.items())
    assert moved > 0


def test_adam_moves_every_entry_by_its_learning_rate_at_first(model: PreTrainedModel) -> None:
    adam = run(model, judged(0.5, 0.6), steps=1, optimiser="adam", coefficient=1e-3, predicted_change=None)
    moved = torch.cat([(rows - adam.trained.before[key]).flatten().abs() for key, rows in adam.rows.items()])
    assert float(moved.max()) <= 1.0001e-3
    assert float((moved > 0.9e-3).float().mean()) > 0.9
    lower = run(model, judged(0.5, *(0.5 + n / 100 for n in range(1, 7))), optimiser="adam", coefficient=1e-2)
    assert written(lower, model, objective_of) < objective_of(model) - 0.05


def test_bfloat16_updates_smaller_than_half_an_ulp_add_up() -> None:
    model = tiny_world.model(dtype=torch.bfloat16)
    accuracies = [0.5 + n / 1000 for n in range(41)]
    one, small = (run(model, judged(*accuracies), steps=steps, predicted_change=2e-4) for steps in (1, 40))
    changed = [
        sum(int((rows != result.trained.before[key]).sum()) for key, rows in result.rows.items())
        for result in (one, small)
    ]
    assert changed[0] == 0  # every entry of a step is below half an ulp, and bfloat16 would lose them all
    assert changed[1] > 30
    assert {master.dtype for master in small.trained.masters.values()} == {torch.float32}


def test_checkpointing_takes_the_same_steps(model: PreTrainedModel) -> None:
    plain, lean = (run(model, judged(0.5, 0.6), steps=2, gradient_checkpointing=on) for on in (False, True))
    for key, rows in plain.rows.items():
        torch.testing.assert_close(rows, lean.rows[key])


def test_a_step_out_of_the_budget_is_halved_until_it_is_inside(model: PreTrainedModel) -> None:
    rows: list[dict[Any, Tensor]] = []
    inside = iter([True, False, False, True, True, True])

    def validate() -> Validation:
        rows.append({key: model.get_parameter(key[0]).detach().clone() for key in result_keys})
        return Validation(0.5, 1.0, {}, next(inside))

    anatomy = anatomy_of(model)
    result_keys = list(TrainableRows(model, anatomy.rows(CIRCUIT.components)).masters)
    settings = AmplifyConfig(steps=4, predicted_change=0.01, patience=99)
    result = amplify(model, anatomy, CIRCUIT, PIVOTS, settings, validate)
    for key in result_keys:
        base, whole, half, quarter, on = (seen[key] for seen in rows)
        torch.testing.assert_close(half - base, (whole - base) / 2, rtol=1e-3, atol=1e-7)
        torch.testing.assert_close(quarter - base, (whole - base) / 4, rtol=1e-3, atol=1e-7)
        assert not torch.equal(on, quarter)
    shares = [record.objective for record in result.history[1:4]]
    assert len(set(shares)) == 1, "no gradient was taken for a step that was halved"
    assert result.history[4].objective != shares[0]


def test_a_step_of_fixed_size_is_never_halved(model: PreTrainedModel) -> None:
    outside = judged(0.5, 0.6, in_budget=[True, False])
    result = run(model, outside, steps=3, coefficient=1e-3)
    assert len({record.objective for record in result.history}) == 4
