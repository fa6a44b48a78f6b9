"""The Patch noun on a model in memory: made on the base, applied, reverted, refused elsewhere."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toy import SHAPES, edit_of, patched, same, toy_patch, toy_weights

from cca.errors import CcaError
from cca.models.anatomy.weight_rows import set_rows_
from cca.patches.patch import Patch

WEIGHTS = toy_weights()
PATCH = toy_patch(WEIGHTS)


def toy(dtype: torch.dtype = torch.float32) -> nn.ParameterDict:
    """The toy weights as a model, whose ``tied`` is its ``columns``."""
    model = nn.ParameterDict(toy_weights(dtype))
    model["tied"] = model["columns"]
    return model


def held(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items() if name != "tied"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_apply_writes_the_rows_and_nothing_else_and_revert_restores_the_bits(dtype: torch.dtype) -> None:
    model, weights = toy(dtype), toy_weights(dtype)
    patch = toy_patch(weights)
    patch.apply(model)
    assert same(held(model), patched(weights))
    patch.revert(model)
    assert same(held(model), weights)


def test_signs_of_zero_and_nans_survive() -> None:
    model = toy()
    with torch.no_grad():
        model["rows"][1, :3] = torch.tensor([-0.0, math.nan, math.inf])
    base = held(model)
    after = model["rows"][1:2].detach().clone()
    after[0, 0] = 0.0  # the same value, another bit
    patch = Patch.from_edits(model, [("rows", 0, torch.tensor([1]), model["rows"][1:2], after)], "toy")
    patch.apply(model)
    assert not math.copysign(1, model["rows"][1, 0].item()) < 0
    patch.revert(model)
    assert same(held(model), base)


def test_edits_of_one_parameter_are_joined_and_sorted_and_unchanged_rows_dropped() -> None:
    model = toy()
    late, early = edit_of(model, "rows", 0, [4, 1]), edit_of(model, "rows", 0, [0])
    unchanged, nothing = edit_of(model, "rows", 0, [2], 0.0), edit_of(model, "experts", 1, [5], 0.0)
    patch = Patch.from_edits(model, [late, early, unchanged, nothing], base_model="toy")
    assert [edit.parameter for edit in patch.edits] == ["rows"]
    assert patch.edits[0].indices.tolist() == [0, 1, 4]
    assert torch.equal(patch.edits[0].after, model["rows"][[0, 1, 4]] + 0.5)
    assert patch.parameters_changed == 18


def test_tied_weights_are_one_parameter_under_its_first_name() -> None:
    model = toy()
    patch = Patch.from_edits(model, [edit_of(model, "tied", 0, [0])], "toy")
    assert [edit.parameter for edit in patch.edits] == ["columns"]
    assert patch.tied == {"columns": ["tied"]}
    with pytest.raises(CcaError, match=r"columns: row 0 is edited twice"):
        Patch.from_edits(model, [edit_of(model, "tied", 0, [0]), edit_of(model, "columns", 0, [0])], "toy")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (("nope", 0, [0], (1, 6), (1, 6)), "nope: the model has no such parameter"),
        (("rows", 2, [0], (1, 6), (1, 6)), "no rows along axis 2"),
        (("experts", 0, [0], (1, 20), (1, 20)), "no rows along axis 0"),
        (("rows", 0, [9], (1, 6), (1, 6)), r"must lie in 0 \.\.\. 8"),
        (("rows", 0, [-1], (1, 6), (1, 6)), r"must lie in 0 \.\.\. 8"),
        (("rows", 0, [0], (1, 5), (1, 6)), "expected 'before' of shape"),
        (("rows", 0, [0], (1, 6), (2, 6)), "expected 'after' of shape"),
        (("rows", 0, [0], (1, 6), (1, 6)), "not what the model holds"),
    ],
)
def test_an_edit_that_does_not_fit_the_model_is_refused(raw: tuple[Any, ...], message: str) -> None:
    name, axis, indices, before, after = raw
    with pytest.raises(CcaError, match=message):
        Patch.from_edits(toy(), [(name, axis, torch.tensor(indices), torch.zeros(before), torch.ones(after))], "toy")


def test_rows_of_another_dtype_or_along_two_axes_are_refused() -> None:
    model = toy(torch.bfloat16)
    edit = edit_of(model, "rows", 0, [0])
    for after, message in (
        (edit.after, "'after' bfloat16; expected one dtype"),
        (edit.after.float(), "'before' is float32, the model bfloat16"),
    ):
        with pytest.raises(CcaError, match=message):
            Patch.from_edits(model, [("rows", 0, edit.indices, edit.before.float(), after)], "toy")
    with pytest.raises(CcaError, match="along axis 0 and axis 1"):
        Patch.from_edits(model, [edit, edit_of(model, "rows", 1, [1])], "toy")


def test_what_json_cannot_hold_is_refused() -> None:
    with pytest.raises(CcaError, match="made_by"):
        Patch.from_edits(toy(), [], "toy", made_by={"gain": math.nan})


@pytest.mark.parametrize("row", [1, 3], ids=["touched", "elsewhere"])
def test_another_base_is_refused_by_the_first_tensor_that_differs_and_nothing_is_written(row: int) -> None:
    model = toy()
    with torch.no_grad():  # the last parameter of the patch, so that all others would have been written before it
        model["rows"][row, 0] += 1
    base = held(model)
    with pytest.raises(CcaError, match=r"rows: .*toy"):
        PATCH.apply(model)
    assert same(held(model), base)


def test_applying_twice_or_reverting_the_base_is_refused_in_words() -> None:
    model = toy()
    with pytest.raises(CcaError, match="the model holds the base's"):
        PATCH.revert(model)
    PATCH.apply(model)
    with pytest.raises(CcaError, match="the model holds the patched ones"):
        PATCH.apply(model)


def test_revert_checks_that_the_rest_of_the_tensor_is_still_the_base() -> None:
    model = toy()
    PATCH.apply(model)
    with torch.no_grad():
        model["rows"][3, 0] += 1
    with pytest.raises(CcaError, match="differs from this patch's base outside the touched rows"):
        PATCH.revert(model)
    PATCH.revert(model, whole=False)


def test_a_model_of_another_dtype_or_offloaded_is_refused() -> None:
    with pytest.raises(CcaError, match=r"this patch is for \[11\] float32, the model holds \[11\] bfloat16"):
        PATCH.apply(toy(torch.bfloat16))
    with pytest.raises(CcaError, match="offloaded"):
        PATCH.apply(nn.ParameterDict({name: torch.zeros(shape, device="meta") for name, shape in SHAPES.items()}))


def test_a_write_that_fails_half_way_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    model, calls = toy(), 0

    def failing(*arguments: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        set_rows_(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("cca.patches.patch.set_rows_", failing)
    with pytest.raises(KeyboardInterrupt):
        PATCH.apply(model)
    assert calls > 4
    assert same(held(model), WEIGHTS)


def test_applied_restores_the_base_also_after_an_error() -> None:
    model = toy()

    def inside() -> None:
        with PATCH.applied(model) as changed:
            assert not same(held(changed), WEIGHTS)
            raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011 (raised two lines above)
        inside()
    assert same(held(model), WEIGHTS)
