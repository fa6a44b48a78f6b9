"""The natural circuit: scores against dense gradients one component at a time, sizes, and what is refused."""

from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedModel
from zoo import whole_gaps

import tiny_world
from cca.circuits import localisers
from cca.circuits.circuit import Circuit, shares
from cca.circuits.localisers import DAMPING, Site, natural
from cca.circuits.settings import CircuitConfig
from cca.errors import CcaError
from cca.gradients.fisher import measure_whitening
from cca.models.anatomy.anatomy import anatomy_of
from cca.models.anatomy.components import KINDS, Component
from cca.models.anatomy.weight_rows import get_rows

TEXTS = [((1, 2, 3), (4, 5)), ((6, 7), (8, 9, 10, 11)), ((3,), (2,))]
PIVOTS = tiny_world.pivots(6)


@pytest.fixture
def model() -> PreTrainedModel:
    return tiny_world.model(dtype=torch.float64)


def located(model: PreTrainedModel, size: str, kinds: tuple[str, ...] = KINDS, rows: str = "paper") -> Circuit:
    site = Site(model, anatomy_of(model), PIVOTS, TEXTS, rows, batch_size=4)
    return natural(site, CircuitConfig.model_validate({"size": size, "kinds": kinds}))


@pytest.mark.parametrize("name", ["llama", "gpt2", "mixtral"])
def test_scores_are_what_the_rows_promise_a_parameter(name: str) -> None:
    model = tiny_world.model(name, dtype=torch.float64)
    model.set_experts_implementation("eager")  # the default, grouped_mm, has no float64 kernel
    anatomy = anatomy_of(model)
    circuit = located(model, "100% of components")
    assert len(circuit) == anatomy.size
    every = anatomy.rows(circuit.components)
    whiten = measure_whitening(model, every, TEXTS, DAMPING, torch.Generator().manual_seed(0))
    weights = {row.parameter: model.get_parameter(row.parameter).requires_grad_(True) for row in every}
    dense = dict(
        zip(
            weights,
            torch.autograd.grad(
                torch.nn.functional.softplus(-whole_gaps(model, PIVOTS)).mean(), list(weights.values())
            ),
            strict=True,
        )
    )
    assert {key for key in ((row.parameter, row.axis) for row in every) if not key[0].endswith("bias")} <= set(
        whiten.factors
    )
    for component in [Component(0, "q", 1), Component(1, "v", 0), Component(1, "neuron", 3)]:
        promise, parameters = 0.0, 0
        for row in anatomy.rows([component]):
            gradient = get_rows(dense[row.parameter], row.axis, row.indices)
            key = (row.parameter, row.axis)
            promise += float((gradient * whiten({key: gradient})[key]).sum())
            parameters += gradient.numel()
        assert circuit.scores[component] == pytest.approx(promise / parameters, rel=1e-4)


def test_groups_of_layers_change_nothing(model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = located(model, "10% of parameters")
    monkeypatch.setattr(localisers, "HELD", 1)
    apart = located(model, "10% of parameters")
    assert apart.components == whole.components


def test_sizes(model: PreTrainedModel) -> None:
    anatomy = anatomy_of(model)
    small, large = located(model, "5% of parameters"), located(model, "20% of parameters")
    assert 0 < shares(small, anatomy)["parameters"] <= 0.05 < shares(large, anatomy)["parameters"] <= 0.2
    assert len(located(model, "3")) == 3
    neurons = located(model, "3", kinds=("neuron",))
    assert {component.kind for component in neurons.components} == {"neuron"}
    best = max(located(model, "100% of components").scores.items(), key=lambda item: item[1])[0]
    assert best in located(model, "3").components
    assert len(located(model, "0.0001% of parameters")) == 1, "one component at least"


def test_what_cannot_be_located_is_refused(model: PreTrainedModel) -> None:
    with pytest.raises(CcaError, match="expected text of other skills"):
        natural(Site(model, anatomy_of(model), PIVOTS), CircuitConfig(size=3, kinds=KINDS))
    with pytest.raises(CcaError, match="this model has none"):
        located(model, "3", kinds=())
    with pytest.raises(CcaError, match="own rows in mode up, this model has none"):
        located(model, "3", kinds=("q", "v"), rows="up")
    assert {component.kind for component in located(model, "3", rows="up").components} == {"neuron"}
