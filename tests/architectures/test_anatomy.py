"""The rows the anatomy names for a component are exactly those whose change moves it, on every architecture.

Heads are observed where the model itself keeps them apart: a Q head in its columns of the input of the output
projection, K and V heads in the KV cache. Neurons are observed in the logits and at the down projection.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from moves import (
    at_attention,
    at_output_projection,
    at_projection,
    covered_scalars,
    in_cache,
    input_of,
    logits,
    moved,
    perturbed,
    random_half,
    rows_of_role,
    zeroed,
)
from transformers import PreTrainedModel
from zoo import RARE, TINY

from cca.models.anatomy.anatomy import Anatomy, anatomy_of
from cca.models.anatomy.components import KINDS, Component
from cca.models.anatomy.weight_rows import get_rows, set_rows_

MODELS = TINY | RARE
# These normalise q and k across heads, so a head's rows move all heads: observed at the projection instead.
NORM_ACROSS_HEADS = {"olmo2", "olmo3", "olmoe"}
# These cache K and V before they have heads: observed as attention reads them.
LATENT_CACHE = {"deepseek-v2", "deepseek-v3"}

# (Q heads, K/V heads, neurons) of each layer, where not 4, 2, 48 in both
MHA, EXPERTS = (4, 4, 48), (4, 2, 4 * 48)
OLD = (4, 4, 128)
COUNTS = {
    "gemma": [(4, 1, 48)] * 2,
    **dict.fromkeys(["phi", "gpt-neox", "opt", "xglm", "biogpt", "persimmon", "modernbert-decoder"], [MHA] * 2),
    **dict.fromkeys(["gpt2", "gpt-bigcode-mha", "gpt-neo", "gptj", "codegen", "falcon-mha", "bloom"], [OLD] * 2),
    **dict.fromkeys(["mpt", "gpt-neox-japanese"], [OLD] * 2),
    **dict.fromkeys(["gpt-bigcode", "falcon-mqa"], [(4, 1, 128)] * 2),
    "falcon": [(4, 2, 128)] * 2,
    **dict.fromkeys(["mixtral", "phimoe", "granitemoe", "olmoe", "gpt-oss"], [EXPERTS] * 2),
    "qwen2-moe": [(4, 2, 4 * 16 + 24)] * 2,
    "qwen3-moe": [(4, 2, 48), (4, 2, 4 * 16)],
    "deepseek-v2": [(4, 4, 48), (4, 4, 4 * 16 + 2 * 16)],
    "deepseek-v3": [(4, 4, 48), (4, 4, 4 * 16 + 16)],
    "glm4-moe": [(4, 2, 48), (4, 2, 4 * 16 + 16)],
    "hunyuan-moe": [(4, 2, 4 * 48 + 48)] * 2,
    "ernie4_5-moe": [(4, 2, 48), (4, 2, 4 * 16 + 2 * 16)],
    "granitemoe-shared": [(4, 2, 4 * 48 + 24)] * 2,
    "llama4": [(4, 2, 4 * 48 + 48)] * 2,
    "mimo-v2": [(4, 4, 48), (4, 2, 4 * 16)],
    "minimax": [(0, 0, 4 * 48), (4, 2, 4 * 48)],
    "lfm2": [(0, 0, 32), (4, 2, 32)],
    "qwen3-next": [(0, 0, 4 * 16 + 24), (4, 2, 4 * 16 + 24)],
    "qwen3.5": [(0, 0, 48), (4, 2, 48)],
}


@pytest.fixture(scope="module", params=sorted(MODELS))
def case(request: pytest.FixtureRequest) -> Iterator[tuple[str, PreTrainedModel, Anatomy]]:
    model = MODELS[request.param]()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    yield request.param, model, anatomy_of(model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_counts(case):
    name, _, anatomy = case
    expected = COUNTS.get(name, [(4, 2, 48)] * 2)
    assert [(layer.count("q"), layer.count("k"), layer.count("neuron")) for layer in anatomy.layers] == expected
    assert anatomy.size == sum(q + 2 * kv + neurons for q, kv, neurons in expected)


def test_flat_order(case):
    _, _, anatomy = case
    listed = list(anatomy.components())
    assert len(listed) == anatomy.size == len(set(listed))
    assert [anatomy.index(component) for component in listed] == list(range(anatomy.size))
    assert [anatomy.component(index) for index in range(anatomy.size)] == listed
    assert listed == sorted(listed, key=lambda c: (c.layer, KINDS.index(c.kind), c.index))
    for layer in range(len(anatomy.layers)):
        for kind in KINDS:
            there = listed[anatomy.span(layer, kind)]
            assert there == [Component(layer, kind, index) for index in range(anatomy.count(layer, kind))]


def test_q_heads(case):
    name, model, anatomy = case
    layer = anatomy.layers[-1]
    seen = at_projection("q") if name in NORM_ACROSS_HEADS else at_output_projection
    heads = [Component(layer.index, "q", head) for head in range(layer.count("q"))]
    before = seen(model, anatomy)
    for head in heads:
        with perturbed(model, anatomy, [head]):
            assert moved(before, seen(model, anatomy)) == {head.index}
        with perturbed(model, anatomy, [other for other in heads if other != head]):
            assert head.index not in moved(before, seen(model, anatomy))


@pytest.mark.parametrize("kind", ["k", "v"])
def test_k_and_v_heads(case, kind):
    name, model, anatomy = case
    layer = anatomy.layers[-1]
    seen = in_cache(kind)
    if name in NORM_ACROSS_HEADS and kind == "k":
        seen = at_projection(kind)
    if name in LATENT_CACHE:
        seen = at_attention(kind)
    everything = [component for component in anatomy.components("qkv") if component.layer == layer.index]
    before = seen(model, anatomy)
    for head in range(layer.count("k")):
        component = Component(layer.index, kind, head)
        with perturbed(model, anatomy, [component]):
            assert moved(before, seen(model, anatomy)) == {head}
        with perturbed(model, anatomy, [other for other in everything if other != component]):
            assert head not in moved(before, seen(model, anatomy))


def test_up_rows_move_just_their_neurons(case):
    _, model, anatomy = case
    for layer in anatomy.layers:
        if layer.down is None:
            continue
        chosen = random_half(layer.count("neuron") - layer.n_routed)
        neurons = [Component(layer.index, "neuron", layer.n_routed + index) for index in chosen]
        before = input_of(model, layer.down)
        with perturbed(model, anatomy, neurons):
            change = (input_of(model, layer.down) - before).abs().amax(dim=(0, 1))
        assert change.nonzero().flatten().tolist() == chosen


def test_neurons_silenced_by_up_gate_or_down_rows(case):
    """A random half of all neurons, experts' too: up, gate and down rows must name the same ones."""
    name, model, anatomy = case
    neurons = list(anatomy.components(["neuron"]))
    chosen = [neurons[index] for index in random_half(len(neurons))]
    before = logits(model)
    silenced = {}
    for role in ("down", "up", "gate"):
        with zeroed(
            model, rows_of_role(anatomy, chosen, role), bias=-1.0 if (name, role) == ("gpt-oss", "up") else 0.0
        ):
            silenced[role] = logits(model)
    assert (silenced["down"] - before).abs().max() > 1e-2
    torch.testing.assert_close(silenced["up"], silenced["down"], atol=1e-4, rtol=0)
    if any(pattern.role == "gate" for layer in anatomy.layers for pattern in layer.patterns):
        torch.testing.assert_close(silenced["gate"], silenced["down"], atol=1e-4, rtol=0)


def test_full_rows_cover_all_but_norms_embeddings_and_routers(case):
    """In mode full, what is left of a layer outside attention are vectors, routers and per-layer inputs."""
    _, model, anatomy = case
    rows = anatomy.rows(anatomy.components(), "full")
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    covered = {row.parameter: covered_scalars(shapes[row.parameter], row) for row in rows}
    assert sum(covered.values()) == anatomy.parameter_count(anatomy.components(), "full") < anatomy.total_parameters
    gated = {p.weight for layer in anatomy.layers for p in layer.patterns if p.role == "q" and p.step > p.length}
    assert all(count == shapes[name].numel() for name, count in covered.items() if name not in gated)
    embeddings = {id(m.weight) for m in (model.get_input_embeddings(), model.get_output_embeddings())}
    assert not any(id(model.get_parameter(name)) in embeddings for name in covered)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_round_trip_to_the_bit(case, dtype):
    _, model, anatomy = case
    generator = torch.Generator().manual_seed(1)
    chosen = torch.rand(anatomy.size, generator=generator) < 0.3
    for row in anatomy.rows(chosen, "full"):
        tensor = model.get_parameter(row.parameter).detach().to(dtype).clone()
        original = tensor.clone()
        kept = get_rows(tensor, row.axis, row.indices)
        set_rows_(tensor, row.axis, row.indices, torch.zeros_like(kept))
        assert int((tensor != original).sum()) == kept.numel()
        set_rows_(tensor, row.axis, row.indices, kept)
        assert torch.equal(tensor, original)
