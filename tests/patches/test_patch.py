"""The Patch noun on a model in memory: made on the base, applied, reverted, refused elsewhere."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from cca.errors import CcaError
from cca.models.anatomy.weight_rows import EACH, get_rows, same_bits, set_rows_
from cca.patches.patch import Patch, TensorEdit

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
PLACES = [  # one of every rank and axis that a patch can touch
    ("rows.weight", 0, [1, 4]),
    ("columns.weight", 1, [0, 5]),
    ("rows.bias", 0, [2]),
    ("experts", 1, [3, 4, 11]),
    ("other_experts", 2, [0, 9]),
    ("expert_biases", EACH, [1, 7]),
]


class Toy(nn.Module):
    def __init__(self, dtype: torch.dtype = torch.float32, seed: int = 0) -> None:
        super().__init__()
        self.rows = nn.Linear(6, 5)
        self.columns = nn.Linear(6, 5, bias=False)
        self.tied = self.columns
        self.experts = nn.Parameter(torch.empty(3, 4, 6))
        self.other_experts = nn.Parameter(torch.empty(3, 4, 6))
        self.expert_biases = nn.Parameter(torch.empty(3, 4))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        self.to(dtype)


def edit_of(model: nn.Module, name: str, axis: int, indices: list[int], change: float = 0.25) -> TensorEdit:
    where = torch.tensor(indices)
    before = get_rows(model.get_parameter(name).detach(), axis, where)
    return TensorEdit(name, axis, where, before, before + change)


def patch_of(model: nn.Module, places: list[tuple[str, int, list[int]]] = PLACES, change: float = 0.25) -> Patch:
    return Patch.from_edits(model, [edit_of(model, *place, change) for place in places], base_model="toy")


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same_weights(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(same_bits(left[name], right[name]) for name in left)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_apply_writes_the_rows_and_nothing_else_and_revert_restores_the_bits(dtype: torch.dtype) -> None:
    model = Toy(dtype)
    base, patch = weights(model), patch_of(model)
    expected = weights(model)
    for name, axis, indices in PLACES:
        where = torch.tensor(indices)
        set_rows_(expected[name], axis, where, get_rows(base[name], axis, where) + 0.25)
    expected["tied.weight"] = expected["columns.weight"]
    patch.apply(model)
    assert same_weights(weights(model), expected)
    patch.revert(model)
    assert same_weights(weights(model), base)


def test_signs_of_zero_and_nans_survive() -> None:
    model = Toy()
    with torch.no_grad():
        model.rows.weight[1, :3] = torch.tensor([-0.0, math.nan, math.inf])
    base = weights(model)
    after = model.rows.weight[1:2].detach().clone()
    after[0, 0] = 0.0  # the same value, another bit
    patch = Patch.from_edits(model, [("rows.weight", 0, torch.tensor([1]), model.rows.weight[1:2], after)], "toy")
    patch.apply(model)
    assert not math.copysign(1, model.rows.weight[1, 0].item()) < 0
    patch.revert(model)
    assert same_weights(weights(model), base)


def test_edits_of_one_parameter_are_joined_and_sorted_and_unchanged_rows_dropped() -> None:
    model = Toy()
    late, early = edit_of(model, "rows.weight", 0, [4, 1]), edit_of(model, "rows.weight", 0, [0])
    unchanged = edit_of(model, "rows.weight", 0, [2], change=0.0)
    nothing = edit_of(model, "experts", 1, [5], change=0.0)
    patch = Patch.from_edits(model, [late, early, unchanged, nothing], base_model="toy")
    assert [edit.parameter for edit in patch.edits] == ["rows.weight"]
    assert patch.edits[0].indices.tolist() == [0, 1, 4]
    assert torch.equal(patch.edits[0].after, model.rows.weight[[0, 1, 4]] + 0.25)
    assert patch.parameters_changed == 18


def test_tied_weights_are_one_parameter_under_its_first_name() -> None:
    model = Toy()
    patch = patch_of(model, [("tied.weight", 0, [0])])
    assert [edit.parameter for edit in patch.edits] == ["columns.weight"]
    assert patch.tied == {"columns.weight": ["tied.weight"]}
    with pytest.raises(CcaError, match=r"columns\.weight: row 0 is edited twice"):
        patch_of(model, [("tied.weight", 0, [0]), ("columns.weight", 0, [0])])


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (("nope", 0, [0], (1, 6), (1, 6)), "nope: the model has no such parameter"),
        (("rows.weight", 2, [0], (1, 6), (1, 6)), "no rows along axis 2"),
        (("experts", 0, [0], (1, 24), (1, 24)), "no rows along axis 0"),
        (("rows.weight", 0, [5], (1, 6), (1, 6)), r"must lie in 0 \.\.\. 4"),
        (("rows.weight", 0, [-1], (1, 6), (1, 6)), r"must lie in 0 \.\.\. 4"),
        (("rows.weight", 0, [0], (1, 5), (1, 6)), "expected 'before' of shape"),
        (("rows.weight", 0, [0], (1, 6), (2, 6)), "expected 'after' of shape"),
        (("rows.weight", 0, [0], (1, 6), (1, 6)), "not what the model holds"),
    ],
)
def test_an_edit_that_does_not_fit_the_model_is_refused(raw: tuple, message: str) -> None:
    name, axis, indices, before, after = raw
    with pytest.raises(CcaError, match=message):
        Patch.from_edits(
            Toy(), [(name, axis, torch.tensor(indices), torch.zeros(before), torch.ones(after))], base_model="toy"
        )


def test_rows_of_another_dtype_or_along_two_axes_are_refused() -> None:
    model = Toy(torch.bfloat16)
    edit = edit_of(model, "rows.weight", 0, [0])
    with pytest.raises(CcaError, match="'after' bfloat16; expected one dtype"):
        Patch.from_edits(model, [("rows.weight", 0, edit.indices, edit.before.float(), edit.after)], "toy")
    with pytest.raises(CcaError, match="'before' is float32, the model bfloat16"):
        Patch.from_edits(model, [("rows.weight", 0, edit.indices, edit.before.float(), edit.after.float())], "toy")
    with pytest.raises(CcaError, match="along axis 0 and axis 1"):
        patch_of(model, [("rows.weight", 0, [0]), ("rows.weight", 1, [1])])


def test_what_json_cannot_hold_is_refused() -> None:
    with pytest.raises(CcaError, match="made_by"):
        Patch.from_edits(Toy(), [], "toy", made_by={"gain": math.nan})


@pytest.mark.parametrize("spoilt", ["touched", "elsewhere"])
def test_another_base_is_refused_by_the_first_tensor_that_differs_and_nothing_is_written(spoilt: str) -> None:
    model = Toy()
    patch = patch_of(model)
    with torch.no_grad():  # the last parameter of the patch, so that all others would have been written before it
        model.rows.weight[1 if spoilt == "touched" else 0, 0] += 1
    base = weights(model)
    with pytest.raises(CcaError, match=r"rows\.weight: .*toy"):
        patch.apply(model)
    assert same_weights(weights(model), base)


def test_applying_twice_or_reverting_the_base_is_refused_in_words() -> None:
    model = Toy()
    patch = patch_of(model)
    with pytest.raises(CcaError, match="the model holds the base's"):
        patch.revert(model)
    patch.apply(model)
    with pytest.raises(CcaError, match="the model holds the patched ones"):
        patch.apply(model)


def test_revert_checks_that_the_rest_of_the_tensor_is_still_the_base() -> None:
    model = Toy()
    patch = patch_of(model)
    patch.apply(model)
    with torch.no_grad():
        model.rows.weight[0, 0] += 1
    with pytest.raises(CcaError, match="differs from this patch's base outside the touched rows"):
        patch.revert(model)
    patch.revert(model, whole=False)


def test_another_shape_or_dtype_is_refused() -> None:
    patch = patch_of(Toy())
    with pytest.raises(CcaError, match=r"this patch is for \[5, 6\] float32, the model holds \[5, 6\] bfloat16"):
        patch.apply(Toy(torch.bfloat16))


def test_a_write_that_fails_half_way_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Toy()
    base, patch = weights(model), patch_of(model)
    calls = 0

    def failing(*arguments: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        set_rows_(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("cca.patches.patch.set_rows_", failing)
    with pytest.raises(KeyboardInterrupt):
        patch.apply(model)
    assert calls > 4
    assert same_weights(weights(model), base)


def test_applied_restores_the_base_also_after_an_error() -> None:
    model = Toy()
    base, patch = weights(model), patch_of(model)

    def inside() -> None:
        with patch.applied(model) as patched:
            assert not same_weights(weights(patched), base)
            raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011 (raised two lines above)
        inside()
    assert same_weights(weights(model), base)


def test_offloaded_weights_are_refused() -> None:
    patch = patch_of(Toy())
    with pytest.raises(CcaError, match="offloaded"):
        patch.apply(Toy().to("meta"))
