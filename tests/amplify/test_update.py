"""Amplify: step sizes, which step wins, when it stops, and a model that is what it was, bit for bit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

import tiny_world
from cca.amplify.objective import OBJECTIVES
from cca.amplify.pivot_gradient import add_pivot_gradient
from cca.amplify.update import Amplified, StepRecord, UpdateSettings, Validation, amplify, better
from cca.circuits.circuit import Circuit
from cca.errors import CcaError
from cca.models.anatomy import anatomy_of
from cca.models.components import Component
from cca.models.trainable_rows import TrainableRows

PIVOTS = tiny_world.pivots(6)
CIRCUIT = Circuit.of([Component(1, "neuron", 3), Component(0, "q", 1), Component(1, "v", 0)], "test")
HEADS = Circuit.of([Component(0, "q", 1)], "heads")


@pytest.fixture
def model() -> PreTrainedModel:
    return tiny_world.model(dtype=torch.float32)


def judged(
    *accuracies: float, drift: float = 1.0, in_budget: Sequence[bool] = ()
) -> Callable[[], Validation]:
    """Verdicts in this order, the last one for ever."""

    def verdicts() -> Iterator[Validation]:
        for number in range(10_000):
            at = min(number, len(accuracies) - 1)
            yield Validation(accuracies[at], drift, {}, in_budget[at] if in_budget else True)

    return verdicts().__next__


def run(
    model: PreTrainedModel, validate: Callable[[], Validation], circuit: Circuit = CIRCUIT, **settings: Any
) -> Amplified:
    wanted = UpdateSettings(**{"predicted_change": 0.01, "steps": 6, "patience": 99, **settings})
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
            float(master.grad.square().sum())
            for master in by_hand.masters.values()
            if master.grad is not None
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


def test_the_best_step_wins_and_its_rows_are_returned(model: PreTrainedModel) -> None:
    rows_at: list[Tensor] = []
    key = ("model.layers.1.mlp.up_proj.weight", 0)
    verdicts = judged(0.5, 0.6, 0.8, 0.7, 0.8, 0.1)

    def validate() -> Validation:
        rows_at.append(model.get_parameter(key[0])[3].detach().clone())
        return verdicts()

    result = run(model, validate)
    assert result.best_step == 2
    assert torch.equal(result.rows[key][0], rows_at[2])
    assert len({tuple(rows.tolist()) for rows in rows_at}) == 7
    assert [record.step for record in result.history] == [0, 1, 2, 3, 4, 5, 6]
    assert result.stopped == "all steps taken"


def test_of_equal_steps_the_one_that_drifted_least_wins(model: PreTrainedModel) -> None:
    drifts = iter([0.0, 3.0, 2.0, 2.5, 9, 9, 9])
    seen = iter([0.5] + [0.7] * 6)
    result = run(model, lambda: Validation(next(seen), next(drifts), {}, True))
    assert result.best_step == 2


def test_a_step_outside_the_budget_never_wins(model: PreTrainedModel) -> None:
    budget = [True, True, False, False, True, True, True]
    result = run(model, judged(0.5, 0.6, 0.99, 0.99, 0.6, 0.5, 0.5, in_budget=budget))
    assert result.best_step == 1
    nothing = run(model, judged(0.5, 0.9, in_budget=[True, False]))
    assert nothing.best_step == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_step_zero_competes_and_a_model_made_worse_stays_the_base(dtype: torch.dtype) -> None:
    model = tiny_world.model(dtype=dtype)
    base = {name: parameter.clone() for name, parameter in model.named_parameters()}
    result = run(model, judged(0.5, 0.4, 0.5, 0.3))
    assert result.best_step == 0
    for key, rows in result.rows.items():
        assert torch.equal(rows, result.trained.before[key])
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, base[name])


def test_patience_counts_validations_without_a_better_step(model: PreTrainedModel) -> None:
    result = run(model, judged(0.5, 0.6, 0.6, 0.7, 0.7), steps=50, patience=3)
    assert [record.step for record in result.history] == [0, 1, 2, 3, 4, 5, 6]
    assert (result.best_step, result.stopped) == (3, "no better step in 3 validations")
    sparse = run(model, judged(0.5), steps=50, patience=2, validate_at=(2, 4, 6, 10))
    assert [record.step for record in sparse.history] == [0, 2, 4]


def test_only_the_steps_named_are_validated(model: PreTrainedModel) -> None:
    told: list[StepRecord] = []
    settings = UpdateSettings(steps=6, validate_at=(2, 5, 40), predicted_change=0.01)
    validate = judged(0.5, 0.6, 0.7)
    result = amplify(model, anatomy_of(model), CIRCUIT, PIVOTS, settings, validate, told.append)
    assert [record.step for record in result.history] == [0, 2, 5]
    assert told == list(result.history)
    losses = [record.objective for record in told[1:]]
    assert losses[1] is not None
    assert losses[0] is not None
    assert losses[1] < losses[0]
    assert told[0].to_row()["validation"] == {
        "accuracy": 0.5,
        "drift": 1.0,
        "retention": {},
        "in_budget": True,
    }


@pytest.mark.parametrize("fault", ["raise", "interrupt"])
def test_weights_are_restored_when_validation_fails(model: PreTrainedModel, fault: str) -> None:
    base = {name: parameter.clone() for name, parameter in model.named_parameters()}
    calls = 0

    def validate() -> Validation:
        nonlocal calls
        calls += 1
        if calls == 3:
            assert any(not torch.equal(parameter, base[name]) for name, parameter in model.named_parameters())
            raise KeyboardInterrupt if fault == "interrupt" else ValueError
        return judged(0.5)()

    with pytest.raises(KeyboardInterrupt if fault == "interrupt" else ValueError):
        run(model, validate)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, base[name])


def test_an_objective_that_overflows_stops_and_keeps_the_best(model: PreTrainedModel) -> None:
    wild = run(model, judged(0.5, 0.9, 0.1), coefficient=1e30, steps=9)
    assert wild.best_step in (0, 1)
    assert len(wild.history) < 4
    assert "not finite at step" in wild.stopped
    assert all(bool(rows.isfinite().all()) for rows in wild.rows.values())


def test_rows_too_large_for_the_models_dtype_are_not_validated() -> None:
    model = tiny_world.model(dtype=torch.float16)
    result = run(model, judged(0.5, 0.9), coefficient=1e12)
    assert result.stopped == "the rows were not finite at step 1"
    assert (result.best_step, len(result.history)) == (0, 1)


def test_a_zero_gradient_stops_with_a_word(model: PreTrainedModel) -> None:
    with torch.no_grad():  # neurons whose output nobody reads
        model.get_parameter("model.layers.1.mlp.down_proj.weight")[:, 3] = 0
    result = run(model, judged(0.5), circuit=Circuit.of([Component(1, "neuron", 3)], "mute"))
    assert result.stopped == "the gradient was zero at step 1"
    assert result.coefficient is None


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


def test_a_gradient_of_ones_own_takes_the_place_of_the_objective(model: PreTrainedModel) -> None:
    def add_gradient(rows: TrainableRows) -> tuple[float, float]:
        for master in rows.masters.values():
            master.grad = torch.ones_like(master)
        return 7.0, -3.0

    settings = UpdateSettings(steps=1, predicted_change=None, coefficient=0.5, objective="unknown here")
    result = amplify(
        model, anatomy_of(model), CIRCUIT, PIVOTS, settings, judged(0.5, 0.6), add_gradient=add_gradient
    )
    assert (result.history[1].objective, result.history[1].logit_gap) == (7.0, -3.0)
    for key, rows in result.rows.items():
        assert torch.equal(rows, result.trained.before[key] - 0.5)


def test_checkpointing_takes_the_same_steps(model: PreTrainedModel) -> None:
    plain, lean = (run(model, judged(0.5, 0.6), steps=2, gradient_checkpointing=on) for on in (False, True))
    for key, rows in plain.rows.items():
        torch.testing.assert_close(rows, lean.rows[key])


@pytest.mark.parametrize(
    ("circuit", "pivots", "settings", "message"),
    [
        (Circuit.of([], "none"), PIVOTS, {}, "expected pivots and a circuit, got 6 pivots and 0 components"),
        (CIRCUIT, [], {}, "got 0 pivots and 3 components"),
        (HEADS, PIVOTS, {"rows": "up"}, "expected components that own rows in mode up"),
        (CIRCUIT, PIVOTS, {"rows": "all"}, "rows: expected one of"),
        (CIRCUIT, PIVOTS, {"objective": "hinge"}, "objective: expected one of"),
        (CIRCUIT, PIVOTS, {"optimiser": "sgd"}, "expected gradient-descent or adam, got 'sgd'"),
        (CIRCUIT, PIVOTS, {"optimiser": "adam"}, "expected a coefficient"),
        (CIRCUIT, PIVOTS, {"predicted_change": None}, "expected predicted_change or coefficient"),
        (CIRCUIT, PIVOTS, {"batch_size": 0}, "batch size: expected at least 1"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    model: PreTrainedModel, circuit: Circuit, pivots: list, settings: dict, message: str
) -> None:
    with pytest.raises(CcaError, match=message):
        amplify(model, anatomy_of(model), circuit, pivots, UpdateSettings(**settings), judged(0.5))


def test_better() -> None:
    def verdict(accuracy: float, drift: float = 0.0, in_budget: bool = True) -> Validation:
        return Validation(accuracy, drift, {}, in_budget)

    assert better(verdict(0.6, 9.0), verdict(0.5))
    assert better(verdict(0.5, 0.1), verdict(0.5, 0.2))
    assert not better(verdict(0.5), verdict(0.5))
    assert not better(verdict(0.9, in_budget=False), verdict(0.1))
    assert not better(verdict(0.5, math.nan), verdict(0.5, 0.0))


def test_a_step_out_of_the_budget_is_halved_until_it_is_inside(model: PreTrainedModel) -> None:
    rows: list[dict[Any, Tensor]] = []
    inside = iter([True, False, False, True, True, True])

    def validate() -> Validation:
        rows.append({key: model.get_parameter(key[0]).detach().clone() for key in result_keys})
        return Validation(0.5, 1.0, {}, next(inside))

    anatomy = anatomy_of(model)
    result_keys = list(TrainableRows(model, anatomy.rows(CIRCUIT.components)).masters)
    settings = UpdateSettings(steps=4, predicted_change=0.01, patience=99)
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
