"""A patch as weights for PEFT: which modules it touches, and deltas that give ``after`` to the bit when added.

PEFT merges by one addition, W + delta, with delta in float32 whatever W is. `exact_delta` finds for every
element a float32 that makes this addition round to ``after``: after - before nearly always, else a neighbour
of it. In float32 there may be none (|before| far above |after|); such weights are counted and named, never
rounded in silence.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cca.errors import CcaError
from cca.patches.addition import exact_delta
from cca.patches.patch import Patch, TensorEdit

INSTEAD = "use `merge` or `export --to merged`, which carry any patch"


@dataclass(frozen=True)
class Delta:
    """What to add to the weight of one linear module, seen as (d_out, d_in)."""

    module: str
    d_out: int
    d_in: int
    by_output: bool  # whether ``rows`` run along the inputs of output features, or the other way
    indices: Tensor  # (k,)
    rows: Tensor  # (k, d_in) if by_output else (k, d_out), float32
    transposed: bool  # the module stores (d_in, d_out), as GPT-2's Conv1D does


def deltas_of(patch: Patch, model: Any, nearest: bool = False) -> list[Delta]:
    """The patch as additions to linear modules of ``model``, which may be empty: only its modules are looked at.

    Raises CcaError naming what no adapter can hold: biases and norms, fused experts, embeddings, tied
    weights; and, unless ``nearest``, weights that no float32 addition reproduces.
    """
    reasons = {edit.parameter: _unsuited(edit, patch, model) for edit in patch.edits}
    refused = {name: reason for name, reason in reasons.items() if reason}
    if refused:
        counts = ", ".join(f"{reason}: {count}" for reason, count in Counter(refused.values()).items())
        raise CcaError(f"{next(iter(refused))}: no adapter can hold this patch ({counts}); {INSTEAD}")
    return [_delta(edit, patch, model, nearest) for edit in patch.edits]


def _unsuited(edit: TensorEdit, patch: Patch, model: Any) -> str | None:
    from transformers.pytorch_utils import Conv1D

    module_name, _, leaf = edit.parameter.rpartition(".")
    shape = patch.base_shapes[edit.parameter]
    if len(shape) == 3 or edit.axis < 0:
        return "weight of fused experts"
    if len(shape) == 1:
        return "bias or norm"
    if edit.parameter in patch.tied:
        return "tied weight"
    try:
        module = model.get_submodule(module_name)
    except AttributeError as error:
        raise CcaError(
            f"{edit.parameter}: the model has no such module; the patch is for {patch.base}"
        ) from error
    if leaf != "weight" or not isinstance(module, torch.nn.Linear | Conv1D):
        return f"weight of a {type(module).__name__}"
    if tuple(module.weight.shape) != shape:
        raise CcaError(
            f"{edit.parameter}: expected shape {list(shape)}, the model has {list(module.weight.shape)}"
        )
    return None


def _delta(edit: TensorEdit, patch: Patch, model: Any, nearest: bool) -> Delta:
    name = edit.parameter.rpartition(".")[0]
    transposed = not isinstance(model.get_submodule(name), torch.nn.Linear)
    shape = patch.base_shapes[edit.parameter]
    if not bool(edit.after.isfinite().all() & edit.before.isfinite().all()):
        raise CcaError(
            f"{edit.parameter}: has infinite or NaN weights, which no addition reproduces; {INSTEAD}"
        )
    rows, wrong = exact_delta(edit.before, edit.after)
    if wrong.any() and not nearest:
        raise CcaError(
            f"{edit.parameter}: {int(wrong.sum())} of {wrong.numel()} touched weights are not reached to the bit by "
            f"adding to the base; {INSTEAD}, or allow the nearest with --nearest"
        )
    d_out, d_in = shape[::-1] if transposed else shape
    return Delta(name, d_out, d_in, (edit.axis == 0) != transposed, edit.indices, rows, transposed)
