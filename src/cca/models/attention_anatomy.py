"""Where a layer's attention keeps its Q, K and V heads: separate projections, or rows of a fused one."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from torch import nn

from cca.models.place import Place, children
from cca.models.weight_rows import UnitRows

KV_HEADS = ("num_kv_heads", "num_key_value_heads", "kv_heads")


@dataclass(frozen=True)
class AttentionAnatomy:
    module: str | None = None
    n_heads: int = 0
    n_kv_heads: int = 0
    head_dim: int = 0
    interface: bool = False
    patterns: tuple[UnitRows, ...] = ()


def read_attention(place: Place) -> AttentionAnatomy:
    declared = place.declared
    found = place.child(place.layer, declared.attention)
    if found is None:
        if place.child(place.layer, declared.no_attention) is None:
            raise place.fault(f"an attention module, found {children(place.layer)}", "attention")
        return AttentionAnatomy()
    name, attention = found
    head_dim = place.number(attention, "head_dim", "head_dim", "head_size")
    read = _separate if place.child(attention, declared.q) else _fused
    n_heads, n_kv_heads, patterns = read(place, attention, head_dim)
    o = place.need(attention, "o")
    if place.weight(o, "o")[3] != n_heads * head_dim:
        raise place.fault(
            f"o to read {n_heads} heads of {head_dim}, got {place.weight(o, 'o')[3]} inputs", "o"
        )
    patterns = (*patterns, place.inputs(o, "q", "o", n_heads, head_dim))
    interface = hasattr(sys.modules[type(attention).__module__], "ALL_ATTENTION_FUNCTIONS")
    return AttentionAnatomy(f"{place.name}.{name}", n_heads, n_kv_heads, head_dim, interface, patterns)


def _separate(place: Place, attention: nn.Module, head_dim: int) -> tuple[int, int, tuple[UnitRows, ...]]:
    modules = {role: place.need(attention, role) for role in "qkv"}
    widths = {role: place.weight(module, role)[2] for role, module in modules.items()}
    step = {"q": head_dim * (2 if place.declared.q_gated else 1), "k": head_dim, "v": head_dim}
    counts = {role: widths[role] // step[role] for role in "qkv"}
    n_heads = place.number(attention, "heads", "num_attention_heads", "num_heads")
    if (
        any(widths[role] % step[role] for role in "qkv")
        or counts["q"] != n_heads
        or counts["k"] != counts["v"]
    ):
        raise place.fault(
            f"{n_heads} heads of {head_dim} in q, k, v of {list(widths.values())} rows", "head_dim"
        )
    patterns = (place.outputs(modules[r], r, r, counts[r], head_dim, step[r]) for r in "qkv")
    return n_heads, counts["k"], tuple(patterns)


def _fused(place: Place, attention: nn.Module, head_dim: int) -> tuple[int, int, tuple[UnitRows, ...]]:
    """Groups that each hold some Q heads, then K heads, then V heads: one group for all (blocks), or one for
    each K/V head (grouped). Multi-query attention is the same either way."""
    declared = place.declared
    found = place.child(attention, declared.qkv)
    if found is None:
        raise place.fault(f"a projection of q, or of q, k and v fused, found {children(attention)}", "q")
    name, fused = found
    n_heads = place.number(attention, "heads", "num_attention_heads", "num_heads")
    n_kv_heads = n_heads
    if declared.kv_heads or any(
        hasattr(owner, key) for owner in (attention, place.config) for key in KV_HEADS
    ):
        n_kv_heads = place.number(attention, "kv_heads", *KV_HEADS)
    weight, axis, width, _ = place.weight(fused, "qkv")
    if width != (n_heads + 2 * n_kv_heads) * head_dim:
        raise place.fault(
            f"{n_heads} + 2 x {n_kv_heads} heads of {head_dim}, got {width} rows in {name}", "kv_heads"
        )
    if declared.qkv_layout is None:
        raise place.fault(f"to be told the order of the rows of {name} (blocks or grouped)", "qkv_layout")
    counts = {"q": n_heads, "k": n_kv_heads, "v": n_kv_heads}
    groups = n_kv_heads if declared.qkv_layout == "grouped" else declared.qkv_blocks
    if n_heads % groups or n_kv_heads % groups:
        raise place.fault(f"{n_heads} and {n_kv_heads} heads to divide into {groups} blocks", "qkv_blocks")
    patterns: list[UnitRows] = []
    start = 0
    for role in declared.qkv_order:
        each = counts[role] // groups
        step, group_step = head_dim, width // groups
        owned = (counts[role], head_dim, start, step, each, group_step)
        patterns.append(UnitRows(role, role, weight, place.bias(fused), axis, *owned))
        start += each * head_dim
    return n_heads, n_kv_heads, tuple(patterns)
