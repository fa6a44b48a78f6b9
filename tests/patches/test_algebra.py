"""Compose, scale, subset: what they give on the model they are applied to, and what they refuse."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from toy import PLACES, patched, same, toy_patch, toy_weights

from cca.errors import CcaError
from cca.patches.algebra import compose, kind_of, layer_of, scale, subset
from cca.patches.patch import Patch
from cca.patches.patch_file import digest

WEIGHTS = toy_weights()


def applied(patch: Patch, weights: dict[str, Tensor] = WEIGHTS) -> dict[str, Tensor]:
    model = nn.ParameterDict({name: tensor.clone() for name, tensor in weights.items()})
    patch.apply(model)
    return {name: tensor.detach().clone() for name, tensor in model.items()}


def rows_patch(indices: list[int], change: float, weights: dict[str, Tensor] = WEIGHTS) -> Patch:
    where = torch.tensor(indices)
    before = weights["rows"][where]
    edit = ("rows", 0, where, before, before + change)
    return Patch.from_edits(nn.ParameterDict(weights), [edit], "toy", circuit=[f"L{i}.q0" for i in indices])


def test_composing_patches_on_different_tensors_applies_both() -> None:
    first, second = (toy_patch(WEIGHTS, names=("rows", "experts")), toy_patch(WEIGHTS, names=("columns", "bias")))
    both = compose(first, second)
    assert [edit.parameter for edit in both.edits] == ["bias", "columns", "experts", "rows"]
    expected = patched(WEIGHTS)
    wanted = {name: expected[name] if name in both.base_hashes else WEIGHTS[name] for name in WEIGHTS}
    assert same(applied(both), wanted)
    assert same(applied(compose(second, first)), wanted)


def test_composing_patches_on_different_rows_of_a_tensor_joins_them() -> None:
    both = compose(rows_patch([1, 5], 0.5), rows_patch([0, 3, 8], -1.0))
    assert both.edits[0].indices.tolist() == [0, 1, 3, 5, 8]
    expected = WEIGHTS["rows"].clone()
    expected[[1, 5]] += 0.5
    expected[[0, 3, 8]] -= 1.0
    assert torch.equal(applied(both)["rows"], expected)
    assert both.circuit == ["L1.q0", "L5.q0", "L0.q0", "L3.q0", "L8.q0"]


def test_a_collision_is_named_and_can_be_summed() -> None:
    first, second = rows_patch([1, 3, 5], 0.5), rows_patch([3, 4, 5], 0.25)
    with pytest.raises(CcaError, match=r"^rows: both patches edit row 3 \(2 rows collide\)"):
        compose(first, second)
    both = compose(first, second, allow_sum=True)
    assert both.edits[0].indices.tolist() == [1, 3, 4, 5]
    changes = torch.tensor([0.5, 0.75, 0.25, 0.75]).view(-1, 1)
    torch.testing.assert_close(both.edits[0].after, both.edits[0].before + changes)


def test_opposite_sums_leave_nothing() -> None:
    exact = {"rows": torch.arange(54.0).view(9, 6)}
    both = compose(rows_patch([1], 2.0, exact), rows_patch([1], -2.0, exact), allow_sum=True)
    assert both.edits == ()
    assert both.base_hashes == {}


def test_patches_of_different_bases_are_not_composed() -> None:
    with pytest.raises(CcaError, match=r"^rows: the patches were made on different bases"):
        compose(rows_patch([1], 1.0), rows_patch([2], 1.0, toy_weights(seed=1)))


def test_patches_along_different_axes_are_not_composed() -> None:
    where = torch.tensor([2])
    columns = WEIGHTS["rows"][:, where].T
    other = Patch.from_edits(nn.ParameterDict(WEIGHTS), [("rows", 1, where, columns, columns + 1)], "toy")
    with pytest.raises(CcaError, match="edits along axis 0, the other along 1"):
        compose(rows_patch([1], 1.0), other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_scale_ends_and_middle(dtype: torch.dtype) -> None:
    weights = toy_weights(dtype)
    patch = toy_patch(weights)
    assert scale(patch, 0).edits == ()
    assert scale(patch, 1).edits == patch.edits
    assert same(applied(scale(patch, 1), weights), applied(patch, weights))
    for factor in (0.25, 2.0):
        for edit, scaled in zip(patch.edits, scale(patch, factor).edits, strict=True):
            exact = edit.before.double() + factor * (edit.after.double() - edit.before.double())
            assert torch.equal(scaled.after, exact.to(dtype))


@given(st.floats(allow_nan=True))
def test_scale_takes_factors_from_0_to_2(factor: float) -> None:
    patch = rows_patch([1], 1.0)
    if 0 <= factor <= 2:
        scale(patch, factor)
    else:
        with pytest.raises(CcaError, match="expected a factor from 0 to 2"):
            scale(patch, factor)


NAMES = {
    "model.layers.0.mlp.up_proj.weight": (0, "up_proj"),
    "model.layers.11.self_attn.q_proj.weight": (11, "q_proj"),
    "model.layers.11.self_attn.q_proj.bias": (11, "q_proj.bias"),
    "transformer.h.3.attn.c_attn.weight": (3, "c_attn"),
    "model.layers.2.mlp.experts.gate_up_proj": (2, "gate_up_proj"),
    "model.embed_tokens.weight": (None, "embed_tokens"),
}


@pytest.mark.parametrize(("name", "expected"), NAMES.items())
def test_layers_and_kinds_are_read_off_names(name: str, expected: tuple[int | None, str]) -> None:
    assert (layer_of(name), kind_of(name)) == expected


def named_patch() -> Patch:
    source = toy_patch(WEIGHTS, names=("rows",))
    edits, hashes, shapes = [], {}, {}
    for name in sorted(NAMES):
        edits.append(type(source.edits[0])(**{**vars(source.edits[0]), "parameter": name}))
        hashes[name], shapes[name] = source.base_hashes["rows"], source.base_shapes["rows"]
    circuit = ["L0.neuron3", "L11.q2", "L2.neuron7"]
    return Patch(tuple(edits), "toy", None, hashes, shapes, circuit, {"claims": {"gain": {"points": 9}}})


def test_subset_by_layer_and_kind() -> None:
    patch = named_patch()
    kept = subset(patch, layers=[0, 11])
    assert {edit.parameter for edit in kept.edits} == {name for name, (layer, _) in NAMES.items() if layer in (0, 11)}
    assert kept.circuit == ["L0.neuron3", "L11.q2"]
    assert kept.base_hashes.keys() == {edit.parameter for edit in kept.edits}
    kept = subset(patch, layers=[11], kinds=["q_proj", "up_proj"])
    assert [edit.parameter for edit in kept.edits] == ["model.layers.11.self_attn.q_proj.weight"]


def test_subset_names_what_the_patch_does_not_touch() -> None:
    with pytest.raises(CcaError, match="touches no layer 7; it touches 0, 11, 2, 3"):
        subset(named_patch(), layers=[0, 7])
    with pytest.raises(CcaError, match="touches no kind 'v_proj'"):
        subset(named_patch(), kinds=["v_proj"])


def test_derived_patches_claim_nothing_and_say_where_they_come_from() -> None:
    patch = named_patch()
    derived = scale(patch, 0.5)
    assert "claims" not in derived.made_by
    assert derived.made_by["from"] == [{"digest": digest(patch), "made_by": patch.made_by}]


def test_every_kind_of_edit_is_scaled_on_the_model() -> None:
    half = scale(toy_patch(WEIGHTS), 0.5)
    result = applied(half)
    assert all((result[name] != WEIGHTS[name]).any() for name in PLACES)
