"""Localisers against their definitions: completeness, finite differences, row-by-row twins, brute force."""

from __future__ import annotations

import itertools

import pytest
import torch
from doubles import in_double

import tiny_world
from cca.circuits.attribution import gate_fisher, integrated_gradient, selective_scores
from cca.circuits.circuit import Circuit, random_circuit_by_layer
from cca.circuits.localisers import Site, find_localiser
from cca.circuits.settings import LOCALISERS, CircuitConfig, check_localiser, resolve_auto
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


def test_layer_matched_draws_keep_every_layers_mix() -> None:
    anatomy = anatomy_of(tiny_world.model())
    like = Circuit.of([Component(0, "q", 0), *(Component(1, "neuron", i) for i in range(9))], "test")
    draws = [random_circuit_by_layer(anatomy, like, torch.Generator().manual_seed(seed)) for seed in range(4)]
    for draw in draws:
        for layer, kind in itertools.product(range(2), KINDS):
            here = [sum((c.layer, c.kind) == (layer, kind) for c in circuit.components) for circuit in (draw, like)]
            assert here[0] == here[1]
    assert len({draw.components for draw in draws}) == 4


@pytest.fixture(scope="module")
def site() -> Site:
    model = tiny_world.model()
    return Site(model, anatomy_of(model), tiny_world.pivots(4), texts(4))


@pytest.mark.parametrize("name", [name for name in LOCALISERS if name != "file"])
def test_every_localiser_gives_a_circuit_of_the_size_asked_for(name: str, site: Site) -> None:
    settings = CircuitConfig(localiser=name, size=3, kinds=("neuron",), epochs=1, penalty=0.0)
    circuit = site.locate(settings)
    if name in ("all", "dcm"):
        assert len(circuit) > 3
    else:
        assert len(circuit) == 3
        assert circuit.count("neuron") == 3


def test_every_row_of_the_table_names_a_function() -> None:
    for name in LOCALISERS:
        assert callable(find_localiser(name)), name


def test_auto_is_natural_with_text_of_other_skills_and_attribution_without(site: Site) -> None:
    asked = CircuitConfig(size=3)
    assert site.locate(asked).method == "natural"
    bare = Site(site.model, site.anatomy, site.pivots)
    assert bare.locate(asked).method == "attribution-absolute"
    assert resolve_auto(asked, True).kinds == KINDS
    assert resolve_auto(asked, False).kinds == ("neuron",)


def test_circuits_combine_as_sets(site: Site) -> None:
    one, other = (site.locate(CircuitConfig(localiser=name, size=20)) for name in ("attribution", "random"))
    for sign, expected in (("|", one | other), ("&", one & other), ("-", one - other)):
        both = site.locate(CircuitConfig(localiser=f"attribution {sign} random", size=20))
        assert both.components == expected.components


@pytest.mark.parametrize("text", ["", "attributon", "attribution &", "attribution + random", "& random"])
def test_what_is_no_localiser_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(CcaError, match="localiser: expected") as caught:
        check_localiser(text)
    assert "\n" not in str(caught.value)


def test_other_row_modes_share_what_was_computed(site: Site) -> None:
    gradient = site.gradient
    assert site.with_rows("full").gradient is gradient
