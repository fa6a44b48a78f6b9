"""Row conventions spelled out by hand, one architecture of each kind, and the bookkeeping around them."""

from __future__ import annotations

import pytest
import torch
from zoo import TINY

from cca.errors import CcaError
from cca.models.anatomy.anatomy import Anatomy, anatomy_of
from cca.models.anatomy.components import Component
from cca.models.anatomy.weight_rows import get_rows, set_rows_, with_rows
from cca.models.checkpoint import EACH, row_shape


def named(anatomy: Anatomy, component: str, mode: str = "paper") -> dict[str, tuple[int, list[int]]]:
    """{parameter without its layer: (axis, row indices)}"""
    rows = anatomy.rows([Component.parse(component)], mode)
    return {row.parameter.split("layers.1.")[-1].split("h.1.")[-1]: (row.axis, row.indices.tolist()) for row in rows}


def span(start: int, stop: int) -> list[int]:
    return list(range(start, stop))


# model -> (component, mode, its rows). 4 Q heads of 8, 2 K/V heads, 48 neurons, of 32 inputs; old ones 4 and 4, 128
ROWS = {
    "llama-biased": [
        ("L1.q3", "paper", {f"self_attn.q_proj.{name}": (0, span(24, 32)) for name in ("weight", "bias")}),
        ("L1.v1", "full", {f"self_attn.v_proj.{name}": (0, span(8, 16)) for name in ("weight", "bias")}),
        ("L1.q3", "full", {
            **{f"self_attn.q_proj.{name}": (0, span(24, 32)) for name in ("weight", "bias")},
            "self_attn.o_proj.weight": (1, span(24, 32)),  # whose bias belongs to no head
        }),
        ("L1.neuron7", "full", {
            **{f"mlp.{role}_proj.{name}": (0, [7]) for role in ("up", "gate") for name in ("weight", "bias")},
            "mlp.down_proj.weight": (1, [7]),
        }),
    ],
    "phi3": [  # fused in blocks
        ("L1.q1", "paper", {"self_attn.qkv_proj.weight": (0, span(8, 16))}),
        ("L1.k1", "paper", {"self_attn.qkv_proj.weight": (0, span(40, 48))}),
        ("L1.v1", "paper", {"self_attn.qkv_proj.weight": (0, span(56, 64))}),
        ("L1.neuron5", "paper", {"mlp.gate_up_proj.weight": (0, [53])}),
        ("L1.neuron5", "full", {"mlp.gate_up_proj.weight": (0, [5, 53]), "mlp.down_proj.weight": (1, [5])}),
    ],
    "gpt-neox": [  # fused per head
        ("L1.k2", "paper", {f"attention.query_key_value.{n}": (0, span(56, 64)) for n in ("weight", "bias")}),
        ("L1.v0", "paper", {f"attention.query_key_value.{n}": (0, span(16, 24)) for n in ("weight", "bias")}),
    ],
    "falcon": [  # two groups of two Q heads, a K head and a V head
        ("L1.q2", "paper", {"self_attention.query_key_value.weight": (0, span(32, 40))}),
        ("L1.k1", "paper", {"self_attention.query_key_value.weight": (0, span(48, 56))}),
    ],
    "falcon-mqa": [("L1.v0", "paper", {"self_attention.query_key_value.weight": (0, span(40, 48))})],
    "gpt2": [  # transposed
        ("L1.v3", "full", {"attn.c_attn.weight": (1, span(88, 96)), "attn.c_attn.bias": (0, span(88, 96))}),
        ("L1.q3", "full", {
            "attn.c_attn.weight": (1, span(24, 32)), "attn.c_attn.bias": (0, span(24, 32)),
            "attn.c_proj.weight": (0, span(24, 32)),
        }),
        ("L1.neuron9", "full", {
            "mlp.c_fc.weight": (1, [9]), "mlp.c_fc.bias": (0, [9]), "mlp.c_proj.weight": (0, [9]),
        }),
    ],
    "mixtral": [  # 4 experts of 48 neurons: expert 2, neuron 4
        ("L1.neuron100", "full", {
            "mlp.experts.gate_up_proj": (1, [2 * 96 + 4, 2 * 96 + 48 + 4]), "mlp.experts.down_proj": (2, [100]),
        }),
    ],
    "gpt-oss": [
        ("L1.neuron100", "full", {
            "mlp.experts.gate_up_proj": (2, [2 * 96 + 8, 2 * 96 + 9]),
            "mlp.experts.gate_up_proj_bias": (EACH, [2 * 96 + 8, 2 * 96 + 9]), "mlp.experts.down_proj": (1, [100]),
        }),
    ],
    "qwen2-moe": [("L1.neuron66", "paper", {"mlp.shared_expert.up_proj.weight": (0, [2])})],  # after 4 experts of 16
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_the_rows_of_a_component(name):
    anatomy = anatomy_of(TINY[name]())
    for component, mode, expected in ROWS[name]:
        assert named(anatomy, component, mode) == expected, (component, mode)


def test_parameter_counts():
    anatomy = anatomy_of(TINY["llama"]())
    head, neuron = Component(0, "q", 0), Component(1, "neuron", 3)
    assert anatomy.parameter_count([head]) == 8 * 32
    assert anatomy.parameter_count([head], "full") == 2 * 8 * 32
    assert anatomy.parameter_count([neuron, neuron]) == 32
    assert anatomy.parameter_count([head, neuron], "full") == 2 * 8 * 32 + 3 * 32
    assert anatomy.parameter_count([head, neuron], "up") == 32
    assert anatomy.rows([head], "up") == ()
    assert anatomy.parameter_count([]) == 0
    tied, untied = TINY["llama-tied"](), TINY["llama"]()
    assert anatomy_of(tied).total_parameters == anatomy_of(untied).total_parameters - 64 * 32


def test_masks_and_flat_indices_name_the_same_rows():
    anatomy = anatomy_of(TINY["gemma2"]())
    mask = torch.rand(anatomy.size, generator=torch.Generator().manual_seed(0)) < 0.4
    chosen = [anatomy.component(index) for index in mask.nonzero().flatten().tolist()]
    ways = [anatomy.rows(way, "full") for way in (mask, mask.nonzero().flatten(), chosen, reversed(chosen))]
    for rows in ways[1:]:
        assert [(row.parameter, row.axis) for row in rows] == [(row.parameter, row.axis) for row in ways[0]]
        assert all(torch.equal(one.indices, other.indices) for one, other in zip(rows, ways[0], strict=True))
    assert all(torch.equal(row.indices, row.indices.unique()) for row in ways[0])


@pytest.mark.parametrize(
    ("component", "message"),
    [("L0.q4", "4 of that kind in that layer"), ("L2.k0", "2 layers"), ("L0.neuron48", "48 of that kind")],
)
def test_components_the_model_does_not_have(component, message):
    anatomy = anatomy_of(TINY["llama"]())
    with pytest.raises(CcaError, match=f"{component}: this llama model has {message}"):
        anatomy.rows([Component.parse(component)])


def test_wrong_requests():
    anatomy = anatomy_of(TINY["llama"]())
    with pytest.raises(CcaError, match="expected one of paper, full, up, got 'rows'"):
        anatomy.rows([], "rows")
    with pytest.raises(CcaError, match=r"expected a mask of shape \(112,\), got \(3,\)"):
        anatomy.rows(torch.ones(3, dtype=torch.bool))
    with pytest.raises(CcaError, match="component number 112: expected 0 to 111"):
        anatomy.component(112)


@pytest.mark.parametrize("written", ["L0.q0", "L31.k7", "L3.v2", "L12.neuron14335"])
def test_components_are_read_as_written(written):
    assert str(Component.parse(written)) == written


@pytest.mark.parametrize("written", ["", "L3", "L3.x5", "3.q5", "L3.q", "L-1.q5", "L3.q5 ", "L3.q٣", "L3.q5\n"])
def test_what_is_no_component_is_refused(written):
    with pytest.raises(CcaError, match=r"expected a name such as L3\.q5 or L3\.neuron120, got "):
        Component.parse(written)


def test_unknown_kinds_are_refused():
    with pytest.raises(CcaError, match="expected one of q, k, v, neuron, got 'o'"):
        Component(0, "o", 0)


@pytest.mark.parametrize(
    ("shape", "axis"), [((6,), 0), ((6, 4), 0), ((6, 4), 1), ((6, 4), EACH), ((3, 6, 4), 1), ((3, 6, 4), 2)]
)
@pytest.mark.parametrize("strided", [False, True])
def test_rows_of_every_shape(shape, axis, strided):
    """Each row is found at its index, written back to the bit, and replaced in a copy with its gradient."""
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    if strided and len(shape) > 1:
        tensor = tensor.transpose(-1, -2).contiguous().transpose(-1, -2)
    count, length = row_shape(shape, axis)
    every = get_rows(tensor, axis, torch.arange(count))
    assert every.shape == (count, length)
    assert every.sort().values.flatten().sort().values.equal(tensor.flatten().sort().values)
    chosen = torch.tensor([1, count - 1])
    fresh = torch.full((2, length), 7.0, requires_grad=True)
    copy = with_rows(tensor, axis, chosen, fresh)
    set_rows_(tensor, axis, chosen, fresh)
    assert torch.equal(copy, tensor)
    assert int((tensor == 7.0).sum()) == 2 * length
    copy.sum().backward()
    assert torch.equal(fresh.grad, torch.ones(2, length))
    set_rows_(tensor, axis, torch.arange(count), every)
    assert torch.equal(get_rows(tensor, axis, torch.arange(count)), every)
