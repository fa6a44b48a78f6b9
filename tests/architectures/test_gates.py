"""On every architecture: what a gate does to the logits, against ablation by hand and finite differences."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
import torch
from doubles import in_double
from torch import Tensor
from transformers import PreTrainedModel
from zoo import TINY, VOCABULARY

from cca.models.anatomy.anatomy import Anatomy, anatomy_of
from cca.models.anatomy.components import Component
from cca.models.forward.gates import check_gates, gated

KINDS = ("q", "k", "v", "neuron")
TOKENS = torch.randint(3, VOCABULARY, (2, 12), generator=torch.Generator().manual_seed(3))
NORMED = {  # architectures that normalise q and k over all heads, or with a bias: there a head is zeroed after
    "olmo2": ("q_norm", "k_norm"),
    "olmo3": ("q_norm", "k_norm"),
    "olmoe": ("q_norm", "k_norm"),
    "persimmon": ("q_layernorm", "k_layernorm"),
}


@pytest.fixture(scope="module", params=list(TINY))
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    return TINY[request.param]()


@pytest.fixture(scope="module")
def anatomy(model: PreTrainedModel) -> Anatomy:
    return anatomy_of(model)


@pytest.fixture
def double_model(model: PreTrainedModel) -> Iterator[PreTrainedModel]:
    experts = model.config.get_text_config()._experts_implementation
    model.set_experts_implementation("eager")  # the default, grouped_mm, has no float64 kernel
    yield model.double()
    model.float().set_experts_implementation(experts)


def logits_of(model: PreTrainedModel) -> Tensor:
    return model(input_ids=TOKENS, use_cache=False).logits


def test_neutral_gates_change_no_bit(model: PreTrainedModel, anatomy: Anatomy) -> None:
    usual = model.config.get_text_config()._attn_implementation
    reachable = all(layer.interface for layer in anatomy.layers)
    for implementation in {usual, "eager"} if reachable else {usual}:
        model.set_attn_implementation(implementation)
        expected = logits_of(model)
        with gated(model, anatomy, torch.ones(anatomy.size)):
            assert torch.equal(logits_of(model), expected)
        with gated(model, anatomy, torch.ones(2, anatomy.size), last=[3, 11]):
            assert torch.equal(logits_of(model), expected)
        with gated(model, anatomy, torch.ones(anatomy.size), positions="all"):
            assert torch.equal(logits_of(model), expected)
        assert torch.equal(logits_of(model), expected)
    model.set_attn_implementation(usual)
    check_gates(model, anatomy)


@pytest.mark.parametrize("positions", ["last", "all"])
def test_zero_gates_equal_ablation_by_hand(double_model: PreTrainedModel, anatomy: Anatomy, positions: str) -> None:
    model = double_model
    where = slice(-1, None) if positions == "last" else slice(None)
    with in_double(), torch.no_grad():
        plain = logits_of(model)
        for component in some_components(anatomy):
            expert = component.kind == "neuron" and component.index < anatomy.layers[component.layer].n_routed
            if expert and positions == "last":
                continue  # by hand, weights are zeroed, so everywhere; test_prefixes covers the last position
            factors = torch.ones(anatomy.size, dtype=torch.float64)
            factors[anatomy.index(component)] = 0
            with gated(model, anatomy, factors, positions=positions):
                actual = logits_of(model)
            with ablated_by_hand(model, anatomy, component, where):
                expected = logits_of(model)
            torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
            if positions == "last":  # to rounding: experts batch tokens anew when a route changes
                torch.testing.assert_close(actual[:, :-1], plain[:, :-1], rtol=1e-12, atol=1e-12)
            if positions == "all" or component.kind != "neuron":  # a neuron may be silent at one position
                assert not torch.equal(actual[:, where], plain[:, where]), component


def test_gradients_equal_finite_differences(double_model: PreTrainedModel, anatomy: Anatomy) -> None:
    model, step = double_model, 1e-5
    generator = torch.Generator().manual_seed(4)
    factors = torch.rand(2, anatomy.size, generator=generator, dtype=torch.float64) + 0.5
    weights = torch.randn(VOCABULARY, generator=generator, dtype=torch.float64)

    def loss(at: Tensor) -> Tensor:
        with gated(model, anatomy, at, last=[7, 11]):
            return (logits_of(model)[[0, 1], [7, 11]] @ weights).sum()

    with in_double():
        leaf = factors.clone().requires_grad_()
        (grad,) = torch.autograd.grad(loss(leaf), leaf)
        for kind in KINDS:
            along = torch.zeros_like(factors)
            for layer in range(len(anatomy.layers)):
                span = anatomy.span(layer, kind)
                along[:, span] = torch.randn(along[:, span].shape, generator=generator, dtype=torch.float64)
                if kind != "neuron":
                    assert (grad[:, span] != 0).all(), f"no gradient for {kind} heads of layer {layer}"
            with torch.no_grad():
                slope = (loss(factors + step * along) - loss(factors - step * along)) / (2 * step)
            torch.testing.assert_close((grad * along).sum(), slope, rtol=1e-6, atol=1e-7)


def some_components(anatomy: Anatomy) -> Iterator[Component]:
    """One of each kind in each layer, and of routed and dense neurons."""
    for layer in anatomy.layers:
        yield Component(layer.index, "q", layer.count("q") - 1)
        yield Component(layer.index, "k", layer.count("k") - 1)
        yield Component(layer.index, "v", 0)
        if layer.n_routed:
            yield Component(layer.index, "neuron", layer.n_routed // 2)
        if layer.down is not None:
            yield Component(layer.index, "neuron", layer.n_routed + 5)


@contextmanager
def ablated_by_hand(model: PreTrainedModel, anatomy: Anatomy, component: Component, where: slice) -> Iterator[None]:
    """Zero a component at positions ``where`` without any of the code under test."""
    layer = anatomy.layers[component.layer]
    with ExitStack() as stack:
        if component.kind == "neuron" and component.index >= layer.n_routed:
            assert layer.down is not None

            def zero_input(_: object, args: tuple[Tensor]) -> tuple[Tensor]:
                x = args[0].clone().view(*TOKENS.shape, -1)
                x[:, where, component.index - layer.n_routed] = 0
                return (x.view(args[0].shape),)

            hook = model.get_submodule(layer.down).register_forward_pre_hook(zero_input)
            stack.callback(hook.remove)
        elif component.kind == "neuron":
            assert layer.experts is not None
            experts = model.get_submodule(layer.experts.module)
            down = experts.down_proj
            before = down.detach().clone()
            expert, neuron = divmod(component.index, layer.experts.neurons)
            (down[expert, neuron] if experts.is_transposed else down[expert, :, neuron]).zero_()
            stack.callback(down.copy_, before)
        else:
            module, features = output_features(model, anatomy, component)

            def zero_output(_module: object, _args: tuple, out: Tensor) -> Tensor:
                heads_inside = out.dim() == 4  # (B, T, H, D) as per-head norms give it
                flat = out.clone().flatten(2) if heads_inside else out.clone()
                index = torch.arange(flat.shape[1])[where, None]
                flat[:, index, features] = 0
                return flat.view(out.shape)

            stack.callback(module.register_forward_hook(zero_output).remove)
        yield


def output_features(model: PreTrainedModel, anatomy: Anatomy, component: Component) -> tuple[torch.nn.Module, Tensor]:
    """Where a head can be zeroed: a module, and which of its output features belong to the head."""
    layer = anatomy.layers[component.layer]
    names = NORMED.get(anatomy.model_type)
    if names is not None and component.kind in "qk":
        module = model.get_submodule(f"{layer.attention}.{names['qk'.index(component.kind)]}")
        return module, component.index * layer.head_dim + torch.arange(layer.head_dim)
    pattern = layer.pattern(component.kind)
    return model.get_submodule(pattern.module), pattern.indices(torch.tensor([component.index])).flatten()
