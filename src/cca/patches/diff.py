"""A patch out of two checkpoints of one model: exact, so that any small edit made elsewhere becomes a patch.

Both are streamed a block of a tensor at a time. Rows that differ are collected; where fewer bytes are in the
columns that differ (output projections edited by neuron), columns are. An edit that is not small is refused:
a patch of half the rows is as large as the checkpoint itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cca.errors import CcaError
from cca.files import as_json
from cca.models.anatomy.weight_rows import DTYPES, bits
from cca.models.checkpoint import ShardFile, open_checkpoint
from cca.patches.layout import Layout
from cca.patches.patch import Patch, TensorEdit
from cca.patches.stored_rows import StoredParameter, read_rows, scan

LARGEST = 0.25  # of the checkpoint's bytes: before and after of an eighth of its rows


def diff(
    base: Path,
    edited: Path,
    base_model: str,
    base_revision: str | None = None,
    made_by: Mapping[str, Any] | None = None,
) -> Patch:
    """The patch that turns ``base`` into ``edited``.

    Compared is what a loader sees: tied weights once, by whichever names they are stored, and no tensor that the
    loaded model has no place for. Raises CcaError where the two are not of one model, by the first parameter that one
    lacks or that has another shape or dtype, and where the patch would be larger than `LARGEST` of the checkpoint.
    """
    left, right = open_checkpoint(base), open_checkpoint(edited)
    layout = Layout(left)
    names, buffers = layout.names(), layout.buffers()
    ours, theirs = (_by_name(each, names, buffers) for each in (layout, Layout(right)))
    for name in sorted(ours.keys() ^ theirs.keys()):
        raise CcaError(f"{name}: only in {base if name in ours else edited}; expected two checkpoints of one model")
    room = LARGEST * sum(tensor.size for tensor in left.tensors.values())
    found: dict[str, tuple[TensorEdit, str]] = {}  # parameter -> edit, hash of the base tensor
    with left.open(left.shards) as base_files, right.open(right.shards) as edited_files:
        for name in sorted(ours):
            for copies, files in ((ours[name], base_files), (theirs[name], edited_files)):
                _check_copies(copies, files)
            one, two = replace(ours[name][0], name=name), theirs[name][0]
            if (one.shape, one.dtype) != (two.shape, two.dtype):
                kinds = f"{list(one.shape)} {one.dtype} and {list(two.shape)} {two.dtype}"
                raise CcaError(f"{name}: expected one shape and dtype in both, got {kinds}")
            edit = _edit(one, two, base_files, edited_files)
            if edit is None:
                continue
            if name in buffers:
                raise CcaError(f"{name}: differs, and is no parameter that a patch could hold; ship the checkpoint")
            room -= 2 * edit.before.numel() * edit.before.element_size()
            if room < 0:
                raise CcaError(
                    f"{name}: up to here a patch is over {LARGEST:.0%} of the checkpoint; ship the checkpoint instead"
                )
            found[name] = edit, scan(one, edit, base_files)[1]
    return Patch(
        tuple(found[name][0] for name in sorted(found)),
        base_model,
        base_revision,
        {name: hashed for name, (_, hashed) in found.items()},
        {name: ours[name][0].shape for name in found},
        [],
        as_json("made_by", made_by or {}),
        {name: names[name] for name in found if names is not None and names[name]},
    )


def _by_name(
    layout: Layout, names: Mapping[str, list[str]] | None, buffers: set[str]
) -> dict[str, list[StoredParameter]]:
    """Parameter -> its stored copies. ``names``: every parameter's other names; None takes all names as stored.

    Raises CcaError for a parameter whose stored tensors cannot be read where they lie.
    """
    stored = layout.parameters
    if names is None:
        return {name: [parameter] for name, parameter in stored.items()}
    found = {name: [stored[alias] for alias in (name, *others) if alias in stored] for name, others in names.items()}
    for name, copies in found.items():
        if not copies and name not in buffers:
            folder = layout.checkpoint.folder
            raise CcaError(f"{name}: {folder} has no such tensor that could be read in place; save the model again")
    return {name: copies for name, copies in found.items() if copies}


def _check_copies(copies: list[StoredParameter], files: Mapping[str, ShardFile]) -> None:
    """Raise CcaError where copies of one tied parameter differ."""
    first, *others = copies
    for other in others:
        same = (first.shape, first.dtype) == (other.shape, other.dtype)
        if not same or any((first.read(files, *block) != other.read(files, *block)).any() for block in first.blocks()):
            raise CcaError(f"{other.name}: is tied to {first.name} but holds other values; a loader would see only one")


def _edit(
    one: StoredParameter, two: StoredParameter, base: Mapping[str, ShardFile], edited: Mapping[str, ShardFile]
) -> TensorEdit | None:
    tall = one.shape[-2] if len(one.shape) > 1 else one.height  # rows of one expert, or of the matrix
    experts = one.height // max(1, tall)
    rows = np.zeros(one.height, dtype=bool)
    columns = np.zeros((experts, one.width), dtype=bool)
    for first, last in one.blocks():
        differs = one.read(base, first, last) != two.read(edited, first, last)
        rows[first:last] = differs.any(axis=1)
        for expert in range(first // tall, (last - 1) // tall + 1):
            begin, end = max(first, expert * tall), min(last, (expert + 1) * tall)
            columns[expert] |= differs[begin - first : end - first].any(axis=0)
    if not rows.any():
        return None
    if one.dtype not in DTYPES or not 1 <= len(one.shape) <= 3:
        raise CcaError(f"{one.name}: differs, and a patch cannot hold {one.dtype} of shape {list(one.shape)}")
    by_column = len(one.shape) > 1 and columns.sum() * tall < rows.sum() * one.width
    axis = 0 if len(one.shape) == 1 else len(one.shape) - (1 if by_column else 2)
    indices = torch.from_numpy(np.flatnonzero(columns if by_column else rows).astype(np.int64))
    shape = (indices.numel(), tall if by_column else one.width)
    blank = torch.empty(shape, dtype=DTYPES[one.dtype])
    where = TensorEdit(one.name, axis, indices, blank, blank)
    before, after = read_rows(one, where, base), read_rows(two, where, edited)
    assert (bits(before) != bits(after)).any(dim=1).all(), one.name
    return TensorEdit(one.name, axis, indices, before, after)
