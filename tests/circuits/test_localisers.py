"""Localisers against their definitions: completeness, finite differences, row-by-row twins, brute force."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from doubles import in_double
from torch.nn import functional

import tiny_world
from cca.circuits.activation_statistics import importance, specific_circuit
from cca.circuits.circuit import Circuit
from cca.circuits.greedy import greedy_circuit
from cca.circuits.head_gating import HeadGatingSettings, learn_head_gates
from cca.circuits.integrated import integrated_gradient
from cca.circuits.layer_control import random_circuit_by_layer
from cca.circuits.localisers import LOCALISERS, Choice, Site, check_localiser, locate
from cca.circuits.selective import gate_fisher, selective_scores
from cca.errors import CcaError
from cca.gradients.pivot_forward import PivotForward
from cca.models.anatomy.anatomy import anatomy_of
from cca.models.anatomy.components import KINDS, Component
from cca.models.forward.gates import gated

Texts = list[tuple[tuple[int, ...], tuple[int, ...]]]


def texts(count: int, seed: int = 0, solution: int = 3) -> Texts:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(3, 60, (count, 12), generator=generator).tolist()
    return [(tuple(row[: 3 + i % 4]), tuple(row[8 : 8 + solution])) for i, row in enumerate(drawn)]


def forward_of(name: str = "llama", count: int = 5, batch_size: int = 3) -> PivotForward:
    model = tiny_world.model(name)
    return PivotForward(model, anatomy_of(model), tiny_world.pivots(count), batch_size)


def mean_gap(forward: PivotForward, factors: torch.Tensor) -> float:
    with torch.no_grad():
        gaps = [forward.gaps(batch, factors) for batch in range(forward.batches)]
    return float(torch.cat(gaps).mean())


@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2"])
def test_integrated_scores_share_out_the_whole_effect(name: str) -> None:
    with in_double():
        forward = forward_of(name)
        scores = integrated_gradient(forward, points=32)
        whole = mean_gap(forward, torch.ones_like(scores)) - mean_gap(forward, torch.zeros_like(scores))
        assert float(scores.sum()) == pytest.approx(whole, rel=1e-3, abs=1e-3)


def test_integrated_scores_are_averages_of_finite_differences() -> None:
    with in_double():
        forward, step = forward_of(), 1e-5
        scores = integrated_gradient(forward, points=5)
        nodes = ((0.0469100770, 0.1184634425), (0.2307653449, 0.2393143352), (0.5, 0.2844444444),
                 (0.7692346551, 0.2393143352), (0.9530899230, 0.1184634425))  # fmt: skip
        for component in (Component(0, "q", 1), Component(1, "v", 0), Component(1, "neuron", 7)):
            place = forward.anatomy.index(component)
            total = 0.0
            for at, weight in nodes:
                ends = []
                for sign in (1, -1):
                    factors = torch.full_like(scores, at)
                    factors[place] += sign * step
                    ends.append(mean_gap(forward, factors))
                total += weight * (ends[0] - ends[1]) / (2 * step)
            assert float(scores[place]) == pytest.approx(total, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2"])
def test_fisher_is_the_sum_of_each_texts_own_squared_gradient(name: str) -> None:
    """The twin runs one text at a time, with the tokens drawn the same way."""
    model = tiny_world.model(name)
    anatomy, spared = anatomy_of(model), texts(4)
    with in_double():
        batched = gate_fisher(model, anatomy, spared, torch.Generator().manual_seed(3), batch_size=4)
        order = sorted(range(4), key=lambda row: (len(spared[row][0]) + len(spared[row][1]), row))
        generator, total = torch.Generator().manual_seed(3), torch.zeros_like(batched)
        for row in order:
            prompt, solution = spared[row]
            factors = torch.ones(anatomy.size, dtype=torch.float64, requires_grad=True)
            with gated(model, anatomy, factors, positions="all"):
                logits = model(input_ids=torch.tensor([[*prompt, *solution]]), use_cache=False).logits[0]
            log_p = logits[len(prompt) - 1 : -1].log_softmax(-1)
            drawn = torch.multinomial(log_p.detach().exp(), 1, generator=generator)
            (gradient,) = torch.autograd.grad(log_p.gather(1, drawn).sum(), factors)
            total += gradient.square()
        torch.testing.assert_close(batched, total / sum(len(s) for _, s in spared), rtol=1e-6, atol=1e-12)


def test_sampled_fisher_approaches_the_exact_one() -> None:
    """Of one solution token the Fisher information is a sum over the vocabulary."""
    model = tiny_world.model()
    anatomy, spared = anatomy_of(model), texts(1, solution=1)
    with in_double():
        factors = torch.ones(anatomy.size, dtype=torch.float64, requires_grad=True)
        with gated(model, anatomy, factors, positions="all"):
            logits = model(input_ids=torch.tensor([list(spared[0][0])]), use_cache=False).logits[0, -1]
        log_p = logits.log_softmax(-1)
        exact = torch.zeros_like(factors)
        for token in range(len(log_p)):
            (gradient,) = torch.autograd.grad(log_p[token], factors, retain_graph=True)
            exact += log_p[token].detach().exp() * gradient.square()
        sampled = gate_fisher(model, anatomy, spared * 400, torch.Generator().manual_seed(0), batch_size=400)
    largest = exact.topk(20).indices
    torch.testing.assert_close(sampled[largest], exact[largest].detach(), rtol=0.35, atol=0.0)


def test_selective_divides_by_what_a_gate_costs_elsewhere() -> None:
    gradient, fisher = torch.tensor([-2.0, 2.0, 1.0]), torch.tensor([4.0, 1.0, 0.0])
    scores = selective_scores(gradient, fisher, damping=0.03)
    torch.testing.assert_close(scores, torch.tensor([2 / 4.05**0.5, 2 / 1.05**0.5, 1 / 0.05**0.5]))
    with pytest.raises(CcaError, match="add retention sets"):
        gate_fisher(tiny_world.model(), anatomy_of(tiny_world.model()), [], torch.Generator())


@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2", "phi3"])
def test_importance_is_weights_times_input_norms(name: str) -> None:
    """The twin reads the inputs of one layer text by text and goes through each component's rows."""
    model = tiny_world.model(name)
    anatomy, spoken = anatomy_of(model), [p + s for p, s in texts(3)]
    scores = importance(model, anatomy, spoken, batch_size=2)
    layer = anatomy.layers[1]
    for role, kind in (("q", "q"), ("v", "v"), ("up", "neuron")):
        pattern = next(p for p in layer.patterns if p.role == role)
        seen: list[torch.Tensor] = []

        def keep(_: Any, args: tuple[torch.Tensor, ...], seen: list[torch.Tensor] = seen) -> None:
            seen.append(args[0][0])

        handle = model.get_submodule(pattern.module).register_forward_pre_hook(keep)
        with torch.no_grad():
            for text in spoken:
                model(input_ids=torch.tensor([text]), use_cache=False)
        handle.remove()
        norms = torch.cat(seen).square().sum(0).sqrt()
        weight = model.get_parameter(pattern.weight)
        for unit in (0, 1):
            rows = pattern.indices(torch.tensor([unit]))[0]
            own = weight[rows] if pattern.axis == 0 else weight[:, rows].T
            expected = float((own.abs() * norms).sum())
            assert float(scores[anatomy.index(Component(1, kind, unit))]) == pytest.approx(expected, rel=1e-9)


def test_specific_components_are_the_tops_difference_for_the_smallest_k() -> None:
    anatomy = anatomy_of(tiny_world.model())
    task, other = torch.zeros(anatomy.size), torch.zeros(anatomy.size)
    neurons = [Component(0, "neuron", index) for index in range(5)]
    for component, here, there in zip(neurons, (9, 8, 7, 6, 5), (9, 1, 8, 2, 7), strict=True):
        task[anatomy.index(component)], other[anatomy.index(component)] = here, there
    # K=2: {0, 1} - {0, 2} = {1}; K=3: {0, 1, 2} - {0, 2, 4} = {1}; K=4: {0, 1, 2, 3} - {0, 2, 4, 3} = {1}
    assert specific_circuit(task, other, anatomy, {"neuron": 1}).components == (neurons[1],)
    with pytest.raises(CcaError, match="specific to the task, found at most 0"):
        specific_circuit(task, task, anatomy, {"neuron": 1})


def test_head_gates_find_the_head_that_is_needed_and_the_one_that_harms() -> None:
    """A stand-in whose gap needs one head, suffers from a second and does not read the others."""
    model = tiny_world.model()
    anatomy = anatomy_of(model)
    needed, harmful = anatomy.index(Component(0, "q", 1)), anatomy.index(Component(1, "v", 0))

    class Gap:
        def __init__(self) -> None:
            self.anatomy, self.model, self.batches = anatomy, model, 1

        def gaps(self, batch: int, factors: torch.Tensor) -> torch.Tensor:
            del batch
            return (4 * factors[needed] - 4 * factors[harmful])[None]

    forward: Any = Gap()
    gates = learn_head_gates(forward, ("q", "k", "v"), HeadGatingSettings(epochs=150, push=0.5))
    both, facilitating = gates.scores("absolute"), gates.scores("signed")
    assert set(both.topk(2).indices.tolist()) == {needed, harmful}
    assert int(facilitating.argmax()) == needed
    assert both.sort(descending=True).values[2] < 0.2
    assert both[anatomy.span(0, "neuron")].eq(0).all(), "kinds not asked for are not chosen"


def test_greedy_takes_the_best_addition_each_time() -> None:
    forward = forward_of(count=4)
    anatomy = forward.anatomy
    gradient = torch.randn(anatomy.size, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    heads = list(anatomy.components(["q"]))
    found = greedy_circuit(forward, gradient, ["q"], 2, candidates=8)

    def loss(chosen: tuple[Component, ...]) -> float:
        factors = torch.ones(anatomy.size, dtype=torch.float64)
        for component in chosen:
            place = anatomy.index(component)
            factors[place] += 0.5 * torch.sign(gradient[place])
        with torch.no_grad():
            gaps = torch.cat([forward.gaps(batch, factors) for batch in range(forward.batches)])
        return float(functional.softplus(-gaps).mean())

    first = min(heads, key=lambda c: loss((c,)))
    second = min((c for c in heads if c != first), key=lambda c: loss((first, c)))
    assert set(found.components) == {first, second}
    assert found.scores[first] == pytest.approx(loss(()) - loss((first,)))
    assert found.scores[second] == pytest.approx(loss((first,)) - loss((first, second)))


def test_layer_matched_draws_keep_every_layers_mix() -> None:
    anatomy = anatomy_of(tiny_world.model())
    like = Circuit.of([Component(0, "q", 0), *(Component(1, "neuron", i) for i in range(9))], "test")
    draws = [random_circuit_by_layer(anatomy, like, torch.Generator().manual_seed(seed)) for seed in range(4)]
    for draw in draws:
        for layer, kind in itertools.product(range(2), KINDS):
            here = [
                sum((c.layer, c.kind) == (layer, kind) for c in circuit.components)
                for circuit in (draw, like)
            ]
            assert here[0] == here[1]
    assert len({draw.components for draw in draws}) == 4


@pytest.fixture(scope="module")
def site() -> Site:
    model = tiny_world.model()
    return Site(model, anatomy_of(model), tiny_world.pivots(4), texts(4))


@pytest.mark.parametrize("name", [name for name in LOCALISERS if name not in ("file", "natural")])
def test_every_localiser_gives_a_circuit_of_the_size_asked_for(name: str, site: Site) -> None:
    choice = Choice(localiser=name, size=3, kinds=("neuron",), epochs=1, penalty=0.0)
    circuit = locate(site, choice)
    if name in ("all", "dcm"):
        assert len(circuit) > 3
    else:
        assert len(circuit) == 3
        assert circuit.count("neuron") == 3


def test_natural_asks_the_site(site: Site) -> None:
    with pytest.raises(CcaError, match="expected a site that knows row gradients"):
        locate(site, Choice(localiser="natural"))
    own = locate(site, Choice(localiser="attribution", size=2))
    asked = replace(site, promising=lambda _: own)
    assert locate(asked, Choice(localiser="natural")) == own


def test_circuits_combine_as_sets(site: Site) -> None:
    one, other = (locate(site, Choice(localiser=name, size=20)) for name in ("attribution", "random"))
    for sign, expected in (("|", one | other), ("&", one & other), ("-", one - other)):
        both = locate(site, Choice(localiser=f"attribution {sign} random", size=20))
        assert both.components == expected.components


@pytest.mark.parametrize("text", ["", "attributon", "attribution &", "attribution + random", "& random"])
def test_what_is_no_localiser_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(CcaError, match="localiser: expected") as caught:
        check_localiser(text)
    assert "\n" not in str(caught.value)


def test_other_row_modes_share_what_was_computed(site: Site) -> None:
    gradient = site.gradient
    assert site.with_rows("full").gradient is gradient
