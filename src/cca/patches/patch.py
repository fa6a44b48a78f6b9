"""A Patch: the rows of weights that changed, before and after, as a noun that applies and reverts to the bit.

Notable decisions:

* A patch owns, for each parameter it touches, the indices along one axis and the rows there before and after,
  in the model's dtype; plus the SHA-256 of the whole base tensor, so that another base is recognised even
  where the touched rows happen to agree.
* Comparison is of bits, not of values: -0.0 is not 0.0, and a NaN equals itself.
* Everything is checked before anything is written, and a write that fails half-way is undone.
* Tied weights are one parameter; its other names are kept in ``tied`` for checkpoints that store them too.

Rows and axes are those of `cca.models.anatomy.weight_rows`.
The file format lives in `cca.patches.patch_file`, checkpoints on disk in `cca.patches`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from cca.errors import CcaError
from cca.files import as_json
from cca.models.anatomy.weight_rows import (
    bits,
    check_rows,
    dtype_name,
    get_rows,
    same_bits,
    set_rows_,
    tensor_hash,
    whole,
)
from cca.patches.patch_content import VERSION

RawEdit = tuple[str, int, Tensor, Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class TensorEdit:
    """The touched rows of one parameter. ``indices`` are sorted and unique; before != after in every row."""

    parameter: str
    axis: int
    indices: Tensor  # (k,) int64
    before: Tensor  # (k, row_len), the model's dtype
    after: Tensor  # (k, row_len)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TensorEdit):
            return NotImplemented
        return (self.parameter, self.axis) == (other.parameter, other.axis) and all(
            same_bits(mine, theirs)
            for mine, theirs in ((self.indices, other.indices), (self.before, other.before), (self.after, other.after))
        )

    def changes(self) -> TensorEdit | None:
        """Without the rows that do not change; None if none does."""
        rows = (bits(self.before) != bits(self.after)).any(dim=1)
        if not rows.any():
            return None
        return replace(self, indices=self.indices[rows], before=self.before[rows], after=self.after[rows])


@dataclass(frozen=True)
class Patch:
    """What one run changed. Make it with `Patch.from_edits` or `cca.patches.patch_file.load_patch`."""

    edits: tuple[TensorEdit, ...]  # one per parameter, sorted by name
    base_model: str
    base_revision: str | None
    base_hashes: dict[str, str]  # parameter -> SHA-256 (hex) of the whole base tensor's bytes, row-major
    base_shapes: dict[str, tuple[int, ...]]
    circuit: list[str] = field(default_factory=list)  # component names
    made_by: dict[str, Any] = field(default_factory=dict)  # free JSON: version, config, the gain it claims, ...
    tied: dict[str, list[str]] = field(default_factory=dict)  # parameter -> its other names
    version: int = VERSION

    @classmethod
    def from_edits(
        cls,
        model: nn.Module,
        edits: Iterable[TensorEdit | RawEdit],
        base_model: str,
        base_revision: str | None = None,
        circuit: Iterable[str] = (),
        made_by: Mapping[str, Any] | None = None,
    ) -> Patch:
        """Build a patch while ``model`` holds the *base* weights.

        Several edits of one parameter are joined (heads of one layer may share a fused matrix); rows that do
        not differ from the base are dropped. Raises CcaError when an edit does not fit the model, when
        ``before`` is not what the model holds, when rows collide, or when one parameter is edited along two
        axes.
        """
        names = _names(model)
        grouped: dict[str, list[TensorEdit]] = {}
        for raw in edits:
            edit = raw if isinstance(raw, TensorEdit) else TensorEdit(*raw)
            _parameter(model, edit.parameter, base_model)
            grouped.setdefault(names[edit.parameter][0], []).append(edit)
        joined: list[TensorEdit] = []
        for name in sorted(grouped):
            parameter = _parameter(model, name, base_model)
            edit = _joined(name, grouped[name], parameter)
            if edit is None:
                continue
            if not same_bits(get_rows(parameter, edit.axis, edit.indices), edit.before):
                raise CcaError(f"{name}: the 'before' rows are not what the model holds; build a patch on its base")
            joined.append(edit)
        touched = {edit.parameter: model.get_parameter(edit.parameter) for edit in joined}
        return cls(
            tuple(joined),
            base_model,
            base_revision,
            {name: tensor_hash(whole(parameter.detach())) for name, parameter in touched.items()},
            {name: tuple(parameter.shape) for name, parameter in touched.items()},
            list(circuit),
            as_json("made_by", made_by or {}),
            {name: names[name][1:] for name in touched if len(names[name]) > 1},
        )

    @property
    def base(self) -> str:
        """The base, in words."""
        return self.base_model + (f" at revision {self.base_revision}" if self.base_revision else "")

    @property
    def parameters_changed(self) -> int:
        """How many single weights lie in the touched rows."""
        return sum(edit.after.numel() for edit in self.edits)

    def check(self, model: nn.Module, side: str = "before", whole: bool = True) -> None:
        """Raise CcaError unless ``model`` holds this patch's ``side`` ("before" or "after"), to the bit.

        ``whole`` also demands that each touched tensor, its touched rows set back to ``before``, has the hash
        of the base; without it only the touched rows are compared, which takes milliseconds.
        """
        for edit in self.edits:
            parameter = _parameter(model, edit.parameter, self.base_model)
            expected = edit.before if side == "before" else edit.after
            wanted = f"{list(self.base_shapes[edit.parameter])} {dtype_name(expected)}"
            held = f"{list(parameter.shape)} {dtype_name(parameter)}"
            if held != wanted:
                raise CcaError(
                    f"{edit.parameter}: this patch is for {wanted}, the model holds {held}; "
                    f"load {self.base} in the patch's dtype"
                )
            rows = get_rows(parameter.detach(), edit.axis, edit.indices)
            if not same_bits(rows, expected):
                opposite = same_bits(rows, edit.after if side == "before" else edit.before)
                found = ("the patched ones" if side == "before" else "the base's") if opposite else "others"
                raise CcaError(
                    f"{edit.parameter}: expected the patch's {side!r} rows, the model holds {found}; "
                    f"the patch was made on {self.base}"
                )
            if whole and not self._is_base(parameter, edit, side):
                raise CcaError(
                    f"{edit.parameter}: the tensor differs from this patch's base outside the touched rows; "
                    f"load {self.base}"
                )

    def apply(self, model: nn.Module, whole: bool = True) -> None:
        """Write the ``after`` rows into ``model`` in place. Refuses another base; nothing is half-written."""
        self.check(model, "before", whole)
        _write(model, self, "after")

    def revert(self, model: nn.Module, whole: bool = True) -> None:
        """Write the ``before`` rows back: the touched tensors are the base's again, to the bit."""
        self.check(model, "after", whole)
        _write(model, self, "before")

    @contextmanager
    def applied(self, model: nn.Module, whole: bool = True) -> Iterator[nn.Module]:
        """``with patch.applied(model):`` the model is patched inside the block, the base again after it."""
        self.apply(model, whole)
        try:
            yield model
        finally:
            self.revert(model, whole=False)

    def _is_base(self, parameter: Tensor, edit: TensorEdit, side: str) -> bool:
        tensor = whole(parameter.detach())
        if side == "after":
            tensor = tensor.clone()
            set_rows_(tensor, edit.axis, edit.indices, edit.before)
        return tensor_hash(tensor) == self.base_hashes[edit.parameter]


def joined_rows(edits: Sequence[TensorEdit]) -> TensorEdit:
    """All rows of ``edits``, which are of one parameter along one axis, sorted."""
    indices, before, after = (
        torch.cat([getattr(edit, part).detach().cpu() for edit in edits]) for part in ("indices", "before", "after")
    )
    indices, order = torch.sort(indices)
    return TensorEdit(edits[0].parameter, edits[0].axis, indices, before[order], after[order])


def _joined(name: str, edits: list[TensorEdit], parameter: Tensor) -> TensorEdit | None:
    """One sorted edit out of several of a parameter, without rows that do not change; None if none does."""
    axis = edits[0].axis
    for edit in edits:
        if edit.axis != axis:
            raise CcaError(f"{name}: edited along axis {axis} and axis {edit.axis}; a patch edits along one of them")
        check_rows(name, tuple(parameter.shape), edit.axis, edit.indices, edit.before, edit.after)
        for what, rows in (("before", edit.before), ("after", edit.after)):
            if rows.dtype != parameter.dtype:
                raise CcaError(f"{name}: {what!r} is {dtype_name(rows)}, the model {dtype_name(parameter)}; cast it")
    joined = replace(joined_rows(edits), parameter=name)
    repeated = torch.nonzero(joined.indices[1:] == joined.indices[:-1])
    if repeated.numel():
        raise CcaError(f"{name}: row {int(joined.indices[repeated[0]])} is edited twice; edits must not collide")
    return joined.changes()


def _write(model: nn.Module, patch: Patch, side: str) -> None:
    other = "before" if side == "after" else "after"
    begun: list[TensorEdit] = []
    try:
        for edit in patch.edits:
            begun.append(edit)
            set_rows_(model.get_parameter(edit.parameter), edit.axis, edit.indices, getattr(edit, side))
    except BaseException:
        for edit in begun:
            set_rows_(model.get_parameter(edit.parameter), edit.axis, edit.indices, getattr(edit, other))
        raise


def _parameter(model: nn.Module, name: str, base_model: str) -> nn.Parameter:
    try:
        parameter = model.get_parameter(name)
    except AttributeError as error:
        raise CcaError(f"{name}: the model has no such parameter; this patch is for {base_model}") from error
    if parameter.is_meta:
        raise CcaError(f"{name}: its weights are offloaded; load the model with all weights on a device")
    return parameter


def tied_names(tensors: Iterable[tuple[str, Tensor]]) -> list[list[str]]:
    """The names of each distinct tensor, in the order given; a shared module comes by its name twice."""
    groups: dict[int, dict[str, None]] = {}
    for name, tensor in tensors:
        groups.setdefault(id(tensor), {})[name] = None
    return [list(names) for names in groups.values()]


def _names(model: nn.Module) -> dict[str, list[str]]:
    """Every parameter name -> all names of that parameter, the canonical one first."""
    groups = tied_names(model.named_parameters(remove_duplicate=False))
    return {name: names for names in groups for name in names}
