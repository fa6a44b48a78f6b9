"""Input whitening: moments against a twin text by text, directions against a dense solve, and what they spare."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

import tiny_world
from architectures.zoo import tiny
from cca.amplify.preconditioner import InputWhitening, input_moments, input_whitening
from cca.amplify.update import UpdateSettings, Validation, amplify
from cca.circuits.circuit import Circuit
from cca.errors import CcaError
from cca.models.anatomy import anatomy_of
from cca.models.components import Component
from cca.models.trainable_rows import Key, TrainableRows

TEXTS = [((1, 2, 3), (4, 5)), ((6, 7), (8, 9, 10, 11)), ((3,), (2,))]
NEURONS = Circuit.of([Component(0, "neuron", 1), Component(1, "neuron", 3)], "test")


@pytest.mark.parametrize("name", ["llama", "gpt2", "phi3", "gpt-neox"])
def test_moments_equal_one_text_at_a_time(name: str) -> None:
    model = tiny(name).double()
    rows = anatomy_of(model).rows(Circuit.of([*NEURONS.components, Component(0, "q", 0)], "test").components)
    moments = input_moments(model, rows, TEXTS, batch_size=2)
    weights = {(row.parameter, row.axis) for row in rows if not row.parameter.endswith("bias")}
    assert set(moments) == weights
    for (parameter, _), moment in moments.items():
        seen: list[Tensor] = []
        module = model.get_submodule(parameter.rpartition(".")[0])
        assert isinstance(module, nn.Module)
        handle = module.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0][0]))
        for prompt, solution in TEXTS:
            model(input_ids=torch.tensor([[*prompt, *solution]]), use_cache=False)
        handle.remove()
        x = torch.cat(seen)
        torch.testing.assert_close(moment, x.T @ x / len(x), rtol=1e-5, atol=1e-9)


def test_directions_solve_the_damped_system() -> None:
    key: Key = ("layer.weight", 0)
    generator = torch.Generator().manual_seed(0)
    x, gradient = (torch.randn(n, 5, generator=generator, dtype=torch.float64) for n in (9, 3))
    damped = x.T @ x + 0.1 * torch.eye(5, dtype=torch.float64)
    whiten = InputWhitening({key: torch.linalg.cholesky(damped)})
    other: Key = ("layer.bias", 0)
    directions = whiten({key: gradient, other: gradient})
    torch.testing.assert_close(directions[key] @ damped, gradient)
    assert directions[other] is gradient


def test_steps_change_less_of_what_other_text_reads() -> None:
    """For the same predicted change of the objective, the outputs on the spared text move less."""
    model, pivots = tiny_world.model(dtype=torch.float32), tiny_world.pivots(6)
    anatomy = anatomy_of(model)
    settings = UpdateSettings(steps=1, predicted_change=0.01)
    whiten = input_whitening(model, anatomy.rows(NEURONS.components), TEXTS, damping=1e-3)
    moved = {}
    for name, precondition in (("plain", None), ("inputs", whiten)):
        verdicts = iter([Validation(0.5, 0.0, {}, True), Validation(0.6, 0.0, {}, True)])
        done = amplify(
            model, anatomy, NEURONS, pivots, settings, verdicts.__next__, precondition=precondition
        )
        moments = input_moments(model, anatomy.rows(NEURONS.components), TEXTS)
        deltas = {key: done.rows[key].double() - done.trained.before[key].double() for key in done.rows}
        moved[name] = sum(float((delta @ moments[key] * delta).sum()) for key, delta in deltas.items())
    assert moved["inputs"] < 0.8 * moved["plain"]


def test_what_cannot_be_whitened_is_refused() -> None:
    model: PreTrainedModel = tiny_world.model(dtype=torch.float32)
    rows = anatomy_of(model).rows(NEURONS.components)
    with pytest.raises(CcaError, match="expected text of other skills"):
        input_whitening(model, rows, [((1,), ())], damping=1e-3)
    assert TrainableRows(model, rows).masters  # and the model is as it was
    settings = UpdateSettings(optimiser="adam", coefficient=1e-3)
    whiten = InputWhitening({})
    with pytest.raises(CcaError, match="expected optimiser gradient-descent, got adam"):
        amplify(
            model, anatomy_of(model), NEURONS, tiny_world.pivots(2), settings,
            lambda: Validation(0.5, 0.0, {}, True), precondition=whiten,
        )  # fmt: skip
