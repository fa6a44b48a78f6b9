"""Amplify: which step wins, when it stops, and a model that is what it was, bit for bit."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

import tiny_world
from cca.amplify.amplify import StepRecord, Validation, amplify, better
from cca.amplify.settings import AmplifyConfig
from cca.circuits.circuit import Circuit
from cca.errors import CcaError
from cca.gradients.pivot_gradient import add_pivot_gradient
from cca.models.anatomy.anatomy import anatomy_of
from cca.models.anatomy.components import Component
from tiny_steps import CIRCUIT, PIVOTS, judged, run

HEADS = Circuit.of([Component(0, "q", 1)], "heads")


@pytest.fixture
def model() -> PreTrainedModel:
    return tiny_world.model(dtype=torch.float32)


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
    verdicts = iter([(0.5, 0.0), (0.7, 3.0), (0.7, 2.0), (0.7, 2.5), (0.7, 9), (0.7, 9), (0.7, 9)])
    assert run(model, lambda: Validation(*next(verdicts), {}, True)).best_step == 2


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
    settings = AmplifyConfig(steps=6, validate_at=(2, 5, 40), predicted_change=0.01)
    validate = judged(0.5, 0.6, 0.7)
    result = amplify(model, anatomy_of(model), CIRCUIT, PIVOTS, settings, validate, on_step=told.append)
    assert [record.step for record in result.history] == [0, 2, 5]
    assert told == list(result.history)
    assert (told[2].objective or 0.0) < (told[1].objective or 0.0)
    first = {"accuracy": 0.5, "drift": 1.0, "retention": {}, "in_budget": True, "cut_off": None}
    assert told[0].to_row()["validation"] == first


@pytest.mark.parametrize("fault", [ValueError, KeyboardInterrupt])
def test_weights_are_restored_when_validation_fails(model: PreTrainedModel, fault: type[BaseException]) -> None:
    base = {name: parameter.clone() for name, parameter in model.named_parameters()}
    calls = 0

    def validate() -> Validation:
        nonlocal calls
        calls += 1
        if calls == 3:
            assert any(not torch.equal(parameter, base[name]) for name, parameter in model.named_parameters())
            raise fault
        return judged(0.5)()

    with pytest.raises(fault):
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


@pytest.mark.parametrize(
    ("circuit", "pivots", "settings", "message"),
    [
        (Circuit.of([], "none"), PIVOTS, {}, "expected pivots and a circuit, got 6 pivots and 0 components"),
        (CIRCUIT, [], {}, "got 0 pivots and 3 components"),
        (HEADS, PIVOTS, {"rows": "up"}, "expected components that own rows in mode up"),
        (CIRCUIT, PIVOTS, {"optimiser": "adam"}, "expected a coefficient"),
        (CIRCUIT, PIVOTS, {"predicted_change": None}, "expected predicted_change or coefficient"),
        (CIRCUIT, PIVOTS, {"whitening": "fisher"}, "expected text of other skills, got none"),
        (CIRCUIT, PIVOTS, {"anchor": 1.0}, "amplify.anchor: expected text of other skills, got none"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    model: PreTrainedModel, circuit: Circuit, pivots: list, settings: dict, message: str
) -> None:
    with pytest.raises(CcaError, match=message):
        amplify(model, anatomy_of(model), circuit, pivots, AmplifyConfig(**settings), judged(0.5))


def test_better() -> None:
    def verdict(accuracy: float, drift: float = 0.0, in_budget: bool = True) -> Validation:
        return Validation(accuracy, drift, {}, in_budget)

    assert better(verdict(0.6, 9.0), verdict(0.5))
    assert better(verdict(0.5, 0.1), verdict(0.5, 0.2))
    assert not better(verdict(0.5), verdict(0.5))
    assert not better(verdict(0.9, in_budget=False), verdict(0.1))
    assert not better(verdict(0.5, math.nan), verdict(0.5, 0.0))


def test_the_old_name_of_whitening_is_read() -> None:
    assert AmplifyConfig.model_validate({"precondition": "none"}).whitening == "none"
    merged = AmplifyConfig.model_validate({"whitening": "none", "precondition": "fisher"})
    assert merged.whitening == "fisher", "what the user says goes over a preset"


def test_memory_that_runs_out_halves_the_batch_and_takes_the_same_steps(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run(model, judged(0.5, 0.6, 0.7), batch_size=2)
    tries: list[int] = []

    def greedy(*args: Any, **options: Any) -> tuple[float, float]:
        tries.append(args[5])
        if args[5] > 2:
            raise torch.OutOfMemoryError
        return add_pivot_gradient(*args, **options)

    monkeypatch.setattr("cca.amplify.amplify.add_pivot_gradient", greedy)
    notes: list[str] = []
    settings = AmplifyConfig(predicted_change=0.01, steps=6, patience=99, batch_size=8)
    found = amplify(
        model, anatomy_of(model), CIRCUIT, PIVOTS, settings, judged(0.5, 0.5, 0.5, 0.6, 0.7), note=notes.append
    )
    assert tries[:3] == [8, 4, 2]
    assert notes == [f"amplify: out of memory with a batch of {size}; going on with {size // 2}" for size in (8, 4)]
    assert all(torch.equal(rows, expected.rows[key]) for key, rows in found.rows.items())
    with pytest.raises(torch.OutOfMemoryError):
        amplify(model, anatomy_of(model), CIRCUIT, PIVOTS, settings, judged(0.5))
