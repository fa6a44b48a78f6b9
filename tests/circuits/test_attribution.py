"""Attribution against finite differences of the mean gap over whole prompts, and the choice of the highest scores."""

from __future__ import annotations

import pytest
import torch
from doubles import in_double
from torch import Tensor
from transformers import PreTrainedModel
from zoo import VOCABULARY, whole_gaps

import tiny_world
from cca.circuits.attribution import attribution_circuit, gate_gradient, top_scored
from cca.circuits.settings import Size
from cca.errors import CcaError
from cca.models.anatomy.anatomy import Anatomy, anatomy_of
from cca.models.anatomy.components import KINDS, Component
from cca.models.forward.gates import gated
from cca.pivots.pivot import Pivot

SHARED = torch.randint(3, VOCABULARY, (19,), generator=torch.Generator().manual_seed(8)).tolist()


def mean_gap(model: PreTrainedModel, anatomy: Anatomy, pivots: list[Pivot], factors: Tensor) -> Tensor:
    with gated(model, anatomy, factors):
        return whole_gaps(model, pivots).mean()


@pytest.mark.parametrize("shared", [(), SHARED], ids=["own prompts", "shared examples"])
@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma2", "gpt2", "falcon", "mixtral"])
def test_scores_are_finite_differences_of_the_mean_gap(name: str, shared: list[int]) -> None:
    model, pivots, step = tiny_world.model(name), tiny_world.pivots(5, shared=shared), 1e-5
    model.set_experts_implementation("eager")  # the default, grouped_mm, has no float64 kernel
    anatomy = anatomy_of(model)
    ones = torch.ones(anatomy.size, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    told: list[int] = []
    with in_double(), torch.no_grad():
        with torch.enable_grad():
            gradient = gate_gradient(model, anatomy, pivots, batch_size=2, progress=told.append)
        for kind in KINDS:
            along = torch.zeros_like(ones)
            for layer in range(len(anatomy.layers)):
                span = anatomy.span(layer, kind)
                along[span] = torch.randn(along[span].shape, generator=generator, dtype=torch.float64)
            above, below = (mean_gap(model, anatomy, pivots, ones + sign * step * along) for sign in (1, -1))
            torch.testing.assert_close((gradient * along).sum(), (above - below) / (2 * step), rtol=1e-6, atol=1e-8)
    assert sum(told) == len(pivots)


def test_batching_does_not_change_scores_and_weights_get_no_gradient() -> None:
    model, pivots = tiny_world.model(), tiny_world.pivots(7)
    anatomy = anatomy_of(model.requires_grad_(True))
    one_by_one, at_once = (gate_gradient(model, anatomy, pivots, batch_size=size) for size in (1, 32))
    torch.testing.assert_close(one_by_one, at_once, rtol=1e-6, atol=1e-6)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    with pytest.raises(CcaError, match="at least one pivot"):
        gate_gradient(model, anatomy, [])
    with torch.no_grad():
        model.get_output_embeddings().weight.fill_(float("nan"))
    with pytest.raises(CcaError, match="expected finite gradients"):
        gate_gradient(model, anatomy, pivots)


@pytest.fixture(scope="module")
def anatomy() -> Anatomy:
    return anatomy_of(tiny_world.model())


def test_absolute_ranks_by_size_and_signed_by_value(anatomy: Anatomy) -> None:
    gradient = torch.zeros(anatomy.size)
    best = {Component(0, "neuron", 3): -5.0, Component(1, "neuron", 9): 4.0, Component(1, "neuron", 2): 3.0}
    for component, value in best.items():
        gradient[anatomy.index(component)] = value
    gradient[anatomy.index(Component(0, "q", 0))] = 100.0  # another kind, not asked for
    absolute = attribution_circuit(gradient, anatomy, "absolute", ["neuron"], Size.parse(2), "paper")
    assert absolute.scores == {Component(0, "neuron", 3): 5.0, Component(1, "neuron", 9): 4.0}
    signed = attribution_circuit(gradient, anatomy, "signed", ["neuron"], Size.parse(2), "paper")
    assert signed.scores == {Component(1, "neuron", 9): 4.0, Component(1, "neuron", 2): 3.0}
    assert (absolute.method, signed.method) == ("attribution-absolute", "attribution-signed")
    with pytest.raises(CcaError, match="expected sign to be one of absolute, signed, got 'both'"):
        attribution_circuit(gradient, anatomy, "both", ["neuron"], Size.parse(2), "paper")


def test_kinds_are_ranked_apart(anatomy: Anatomy) -> None:
    scores = torch.randn(anatomy.size, generator=torch.Generator().manual_seed(1))
    scores[anatomy.span(0, "neuron")] += 1000  # no head could compete
    circuit = top_scored(scores, anatomy, "test", KINDS, Size.parse("25%"), "paper")
    for kind in KINDS:
        own = list(anatomy.components([kind]))
        ranked = sorted(own, key=lambda component: -scores[anatomy.index(component)])
        expected = ranked[: len(own) // 4]
        assert {c for c in circuit.components if c.kind == kind} == set(expected)
    assert all(circuit.scores[c] == float(scores[anatomy.index(c)]) for c in circuit.components)
