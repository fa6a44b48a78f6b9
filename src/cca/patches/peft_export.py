"""A patch as a stock PEFT adapter: a LoRA (exact, compact) or a SHiRA (sparse), each merged weight equal to the bit.

A row edit is a LoRA of its own rank: lora_A holds the k delta rows, lora_B is one-hot and puts row i where it
belongs. A column edit is the same with the two swapped. ``lora_alpha`` equals the rank everywhere, so the
scale is 1.

PEFT merges by one addition, W + delta, with delta in float32 whatever W is. `cca.patches.algebra.exact_delta` finds
for every element a float32 that makes this addition round to ``after``; weights that none reaches are counted and
named, never rounded in silence.
"""

from __future__ import annotations

import os
import re
import shutil
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from cca.errors import CcaError
from cca.files import write_bytes, write_json
from cca.patches.algebra import exact_delta
from cca.patches.apply import check_new_folder
from cca.patches.layout import empty_model
from cca.patches.patch import Patch, TensorEdit

INSTEAD = "use `merge` or `export --to merged`, which carry any patch"
SERVER_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The ranks vLLM takes. It ignores rank_pattern, so that all modules must share one."""

PREFIX = "base_model.model."


@dataclass(frozen=True)
class Delta:
    """What to add to the weight of one linear module, seen as (d_out, d_in)."""

    module: str
    d_out: int
    d_in: int
    by_output: bool  # True where ``rows`` run along the inputs of output features, or the other way
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
        raise CcaError(f"{edit.parameter}: the model has no such module; the patch is for {patch.base}") from error
    if leaf != "weight" or not isinstance(module, torch.nn.Linear | Conv1D):
        return f"weight of a {type(module).__name__}"
    if tuple(module.weight.shape) != shape:
        raise CcaError(f"{edit.parameter}: expected shape {list(shape)}, the model has {list(module.weight.shape)}")
    return None


def _delta(edit: TensorEdit, patch: Patch, model: Any, nearest: bool) -> Delta:
    name = edit.parameter.rpartition(".")[0]
    transposed = not isinstance(model.get_submodule(name), torch.nn.Linear)
    shape = patch.base_shapes[edit.parameter]
    if not bool(edit.after.isfinite().all() & edit.before.isfinite().all()):
        raise CcaError(f"{edit.parameter}: has infinite or NaN weights, which no addition reproduces; {INSTEAD}")
    rows, wrong = exact_delta(edit.before, edit.after)
    if wrong.any() and not nearest:
        raise CcaError(
            f"{edit.parameter}: {int(wrong.sum())} of {wrong.numel()} touched weights are not reached to the bit by "
            f"adding to the base; {INSTEAD}, or allow the nearest with --nearest"
        )
    d_out, d_in = shape[::-1] if transposed else shape
    return Delta(name, d_out, d_in, (edit.axis == 0) != transposed, edit.indices, rows, transposed)


def export_lora(patch: Patch, out: Path, config: dict[str, Any], pad_ranks: bool = False, nearest: bool = False) -> int:
    """Write the adapter folder ``out``; returns its largest rank.

    ``config`` is the model's ``config.json``. ``pad_ranks`` fills all ranks up to one that vLLM takes,
    ``nearest`` allows weights that no addition reaches to the bit. Raises CcaError naming what a LoRA cannot
    hold.
    """
    model = empty_model(config)
    deltas = deltas_of(patch, model, nearest)
    ranks = {delta.module: delta.indices.numel() for delta in deltas}
    largest = max(ranks.values(), default=1)
    if pad_ranks:
        fitting = [rank for rank in SERVER_RANKS if rank >= largest]
        if not fitting:
            module = max(ranks, key=lambda name: ranks[name])
            raise CcaError(f"{module}: needs rank {largest}, servers take at most {SERVER_RANKS[-1]}; {INSTEAD}")
        largest = fitting[0]
        ranks = dict.fromkeys(ranks, largest)
    pattern = {re.escape(module): rank for module, rank in ranks.items() if rank != largest}
    tensors: dict[str, Tensor] = {}
    for delta in deltas:
        a, b = _factors(delta, ranks[delta.module])
        tensors[f"{PREFIX}{delta.module}.lora_A.weight"] = a
        tensors[f"{PREFIX}{delta.module}.lora_B.weight"] = b
    settings = {
        "r": largest, "lora_alpha": largest, "rank_pattern": pattern, "alpha_pattern": pattern, "lora_dropout": 0.0,
        "bias": "none", "init_lora_weights": True,
    }  # fmt: skip
    _write(out, "LORA", patch, deltas, tensors, settings, model)
    return largest


def export_shira(patch: Patch, out: Path, config: dict[str, Any], nearest: bool = False) -> int:
    """Write a SHiRA adapter: r * (d_out + d_in) single weights a module, those not touched with delta 0."""
    model = empty_model(config)
    deltas = deltas_of(patch, model, nearest)
    rank = 1
    for delta in deltas:
        if delta.transposed:
            raise CcaError(f"{delta.module}: SHiRA takes nn.Linear only; use `export --to lora`")
        rank = max(rank, -(-delta.rows.numel() // (delta.d_out + delta.d_in)))
    tensors: dict[str, Tensor] = {}
    for delta in deltas:
        size = rank * (delta.d_out + delta.d_in)
        if size > delta.d_out * delta.d_in:
            raise CcaError(
                f"{delta.module}: SHiRA's rank {rank} asks for {size} weights, it has {delta.d_out * delta.d_in}; "
                "use `export --to lora`"
            )
        places, values = _scattered(delta, size)
        tensors[f"{PREFIX}{delta.module}.shira_indices"] = places
        tensors[f"{PREFIX}{delta.module}.shira_weight"] = values
    settings = {"r": rank, "mask_type": "random", "random_seed": None, "init_weights": True}
    _write(out, "SHIRA", patch, deltas, tensors, settings, model)
    return rank


def _factors(delta: Delta, rank: int) -> tuple[Tensor, Tensor]:
    """(lora_A (rank, d_in), lora_B (d_out, rank)) with lora_B @ lora_A the delta of the module."""
    k = delta.indices.numel()
    a, b = torch.zeros(rank, delta.d_in), torch.zeros(delta.d_out, rank)
    if delta.by_output:
        a[:k] = delta.rows
        b[delta.indices, torch.arange(k)] = 1.0
    else:
        a[torch.arange(k), delta.indices] = 1.0
        b[:, :k] = delta.rows.T
    return a, b


def _scattered(delta: Delta, size: int) -> tuple[Tensor, Tensor]:
    """(places (2, size) int32, values (size,)): the touched weights, then untouched ones with value 0."""
    axis, rows = (0, delta.rows) if delta.by_output else (1, delta.rows.T)
    full = torch.zeros(delta.d_out, delta.d_in).index_copy_(axis, delta.indices, rows)
    touched = torch.zeros(delta.d_out, delta.d_in, dtype=torch.bool).index_fill_(axis, delta.indices, True)
    order = torch.argsort(touched.view(-1), descending=True, stable=True)[:size]
    places = torch.stack([order // delta.d_in, order % delta.d_in]).to(torch.int32)
    return places, full.view(-1)[order]


def _write(
    out: Path, kind: str, patch: Patch, deltas: list[Delta], tensors: dict[str, Tensor], settings: dict[str, Any],
    model: Any,
) -> None:  # fmt: skip
    """Write the adapter under a hidden name, load it as anyone would, and only then give it its name."""
    check_new_folder(out)
    if not deltas:
        raise CcaError("the patch has no edits: there is nothing to export; use the base model")
    config = {
        "peft_type": kind,
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": patch.base_model,
        "revision": patch.base_revision,
        "inference_mode": True,
        "fan_in_fan_out": deltas[0].transposed,
        "target_modules": _targets([delta.module for delta in deltas], model),
        "modules_to_save": None,
        **settings,
    }
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        write_json(partial / "adapter_config.json", config)
        write_bytes(partial / "adapter_model.safetensors", save(tensors, metadata={"format": "pt"}))
        _check(partial, patch, deltas, tensors, model)
        os.rename(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _targets(modules: list[str], model: Any) -> list[str] | str:
    """The modules by full name; a pattern where PEFT, which matches ends of names, would take in others."""
    ends = tuple(f".{module}" for module in modules)
    if any(name.endswith(ends) for name, _ in model.named_modules() if name not in modules):
        return "|".join(re.escape(module) for module in sorted(modules))
    return sorted(modules)


def _check(folder: Path, patch: Patch, deltas: list[Delta], tensors: dict[str, Tensor], model: Any) -> None:
    """Load the adapter with PEFT onto the empty model and compare what arrived with what was written.

    PEFT takes some module names of mixture-of-experts models for experts of older versions; this finds out.
    """
    from peft import PeftModel

    dtype = patch.edits[0].before.dtype
    for delta in deltas:  # zeros that are never read take no memory; on the meta device the adapter would be lost
        module = model.get_submodule(delta.module)
        module.weight = torch.nn.Parameter(torch.zeros(module.weight.shape, dtype=dtype), requires_grad=False)
    try:
        with warnings.catch_warnings():  # what they say of adapters that do not fit is found out below
            warnings.simplefilter("ignore")
            loaded = dict(PeftModel.from_pretrained(model, str(folder)).named_parameters())
    except (ValueError, KeyError, RuntimeError) as error:
        reason = str(error).split("\n")[0][:200]
        raise CcaError(f"{deltas[0].module}: PEFT does not load this adapter ({reason}); {INSTEAD}") from error
    for name, tensor in tensors.items():
        if name.endswith("shira_indices"):
            continue  # no parameter; its weights are useless without it, and tests cover it
        stem, dot, leaf = name.rpartition(".")
        key = f"{name}.default" if leaf == "shira_weight" else f"{stem}.default{dot}{leaf}"
        if key not in loaded or not torch.equal(loaded[key].detach().cpu(), tensor):
            module = name.removeprefix(PREFIX).rsplit(".lora_")[0].removesuffix(".shira_weight")
            raise CcaError(f"{module}: PEFT does not load an adapter of it in a {type(model).__name__}; {INSTEAD}")
