"""Patches computed from patches: composed, scaled, cut down. Nothing here needs a model.

What comes out is a patch on the same base. It says what it was derived from, but no longer claims the gain of
its sources: that was measured on other weights.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from cca.errors import CcaError
from cca.models.anatomy.weight_rows import bits, dtype_name
from cca.patches.patch import Patch, TensorEdit, joined_rows
from cca.patches.patch_content import kind_of, layer_of
from cca.patches.patch_file import digest


def compose(first: Patch, second: Patch, allow_sum: bool = False) -> Patch:
    """Both edits in one patch; they must have been made on the same base.

    Raises CcaError naming the first row that both edit, unless ``allow_sum``: its two changes are then added
    (in float64, rounded once).
    """
    for name in first.base_hashes.keys() & second.base_hashes.keys():
        if first.base_hashes[name] != second.base_hashes[name]:
            raise CcaError(
                f"{name}: the patches were made on different bases ({first.base} and {second.base}); "
                "make both on one, or apply one, and `diff` from there"
            )
    edits = {edit.parameter: edit for edit in first.edits}
    for edit in second.edits:
        mine = edits.get(edit.parameter)
        edits[edit.parameter] = edit if mine is None else _join(mine, edit, allow_sum)
    kept = [edits[name] for name in sorted(edits)]
    circuit = list(dict.fromkeys([*first.circuit, *second.circuit]))
    both = replace(
        first,
        base_hashes={**first.base_hashes, **second.base_hashes},
        base_shapes={**first.base_shapes, **second.base_shapes},
        tied={**first.tied, **second.tied},
    )
    return _derived(both, kept, circuit, [first, second], {"derived": "compose", "sum": allow_sum})


def scale(patch: Patch, factor: float) -> Patch:
    """``factor`` (0 to 2) times the edit: 0 changes nothing, 1 is the patch itself to the bit, 2 doubles it."""
    if not 0 <= factor <= 2:
        raise CcaError(f"scale: expected a factor from 0 to 2, got {factor}")

    def scaled(edit: TensorEdit) -> TensorEdit:
        before, after = edit.before.double(), edit.after.double()
        new = (before + factor * (after - before)).to(edit.after.dtype)
        return replace(edit, after=edit.after if factor == 1 else new)

    edits = [scaled(edit) for edit in patch.edits]
    return _derived(patch, edits, patch.circuit, [patch], {"derived": "scale", "factor": factor})


def subset(patch: Patch, layers: Collection[int] = (), kinds: Collection[str] = ()) -> Patch:
    """Only the edits in these layers and of these kinds (``q_proj``, ``up_proj``, ...; see `kind_of`); empty is all.

    Raises CcaError naming a layer or kind that the patch does not touch.
    """
    for what, wanted, of in (("layer", layers, layer_of), ("kind", kinds, kind_of)):
        held = {of(edit.parameter) for edit in patch.edits}
        for item in wanted:
            if item not in held:
                choice = ", ".join(sorted(str(value) for value in held if value is not None))
                raise CcaError(f"subset: the patch touches no {what} {item!r}; it touches {choice}")
    edits = [
        edit
        for edit in patch.edits
        if (not layers or layer_of(edit.parameter) in layers) and (not kinds or kind_of(edit.parameter) in kinds)
    ]
    circuit = [name for name in patch.circuit if not layers or _layer_of_component(name) in layers]
    how = {"derived": "subset", "layers": sorted(layers), "kinds": sorted(kinds)}
    return _derived(patch, edits, circuit, [patch], how)


def _join(first: TensorEdit, second: TensorEdit, allow_sum: bool) -> TensorEdit:
    name = first.parameter
    if first.axis != second.axis:
        raise CcaError(f"{name}: one patch edits along axis {first.axis}, the other along {second.axis}")
    if first.before.dtype != second.before.dtype:
        kinds = f"{dtype_name(first.before)} and {dtype_name(second.before)}"
        raise CcaError(f"{name}: the patches are {kinds}; make both in one dtype")
    mine = torch.nonzero(torch.isin(first.indices, second.indices)).flatten()  # sorted and unique, as theirs
    theirs = torch.nonzero(torch.isin(second.indices, first.indices)).flatten()
    common = first.indices[mine]
    if common.numel() and not allow_sum:
        raise CcaError(
            f"{name}: both patches edit row {int(common[0])} ({common.numel()} rows collide); "
            "drop one with `subset`, or add them with --allow-sum"
        )
    after = first.after.clone()
    total = first.after[mine].double() + second.after[theirs].double() - first.before[mine].double()
    after[mine] = total.to(after.dtype)
    rest = torch.ones(second.indices.numel(), dtype=torch.bool)
    rest[theirs] = False
    others = replace(second, indices=second.indices[rest], before=second.before[rest], after=second.after[rest])
    return joined_rows([replace(first, after=after), others])


def _derived(
    base: Patch, edits: list[TensorEdit], circuit: list[str], sources: list[Patch], how: dict[str, Any]
) -> Patch:
    """A patch of ``edits`` without rows that do not change, its claims replaced by where it comes from."""
    kept = [edit for edit in map(TensorEdit.changes, edits) if edit is not None]
    names = {edit.parameter for edit in kept}
    origin = [{"digest": digest(source), "made_by": source.made_by} for source in sources]

    def pick(held: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in held.items() if name in names}

    return Patch(
        tuple(kept), base.base_model, base.base_revision, pick(base.base_hashes), pick(base.base_shapes), circuit,
        {**how, "from": origin}, pick(base.tied),
    )  # fmt: skip


def _layer_of_component(name: str) -> int | None:
    match = re.match(r"L(\d+)\.", name)
    return int(match.group(1)) if match else None


NEIGHBOURS = 2  # units in the last place to either side of after - before that are tried


def exact_delta(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    """(float32 deltas, mask of the elements where before + delta is not ``after``), both of the rows' shape.

    Values that the dtype itself can hold are preferred, so that loaders which keep adapters in the model's
    dtype are exact too. A zero that changes its sign counts as unchanged.
    """
    if before.dtype == torch.float64:
        return (after - before).float(), torch.ones_like(before, dtype=torch.bool)
    plain = after.float() - before.float()
    delta, wrong = plain.clone(), torch.ones_like(before, dtype=torch.bool)
    candidates = [plain.to(before.dtype).float(), plain]
    for steps in range(1, NEIGHBOURS + 1):
        candidates += [_neighbour(plain, steps), _neighbour(plain, -steps)]
    for candidate in candidates:
        right = wrong & ((before.float() + candidate).to(before.dtype) == after)
        delta[right] = candidate[right]
        wrong &= ~right
    return delta, wrong


def nearest_reachable(before: Tensor, after: Tensor) -> Tensor:
    """``after``, but for the elements no single addition reaches: those are the closest that one does."""
    delta, wrong = exact_delta(before, after)
    return torch.where(wrong, (before.float() + delta).to(before.dtype), after)


def _neighbour(values: Tensor, steps: int) -> Tensor:
    """The float32 numbers ``steps`` units in the last place away from zero (towards it, if negative)."""
    return (bits(values) + steps).view(torch.float32)
