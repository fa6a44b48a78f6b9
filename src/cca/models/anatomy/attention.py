"""The Q, K and V heads of a layer's attention: separate projections, fused, or K and V latent."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from torch import nn

from cca.models.anatomy.layer_reader import LayerReader, children
from cca.models.anatomy.weight_rows import UnitRows

KV_HEADS = ("num_kv_heads", "num_key_value_heads", "kv_heads")


@dataclass(frozen=True)
class AttentionAnatomy:
    module: str | None = None
    n_heads: int = 0
    n_kv_heads: int = 0
    head_dim: int = 0
    v_head_dim: int = 0
    interface: bool = False
    patterns: tuple[UnitRows, ...] = ()


@dataclass(frozen=True)
class Heads:
    """The counts that an attention module states; only fused projections state K/V heads."""

    q: int
    kv: int
    dim: int
    v_dim: int


def read_attention(reader: LayerReader) -> AttentionAnatomy:
    found = reader.child(reader.layer, reader.declared.attention)
    types = getattr(reader.config, "layer_types", None) or ()
    if found is None or (len(types) > reader.index and types[reader.index] == "linear_attention"):
        if found is None and reader.child(reader.layer, reader.declared.no_attention) is None:
            raise reader.fault(f"an attention module, found {children(reader.layer)}", "attention")
        return AttentionAnatomy()
    name, attention = found
    heads = _stated_heads(reader, attention)
    if reader.child(attention, reader.declared.q) is None:
        patterns = _fused(reader, attention, heads)
    elif reader.child(attention, reader.declared.k) is None and reader.child(attention, reader.declared.kv):
        patterns = _latent(reader, attention, heads)
    else:
        patterns = _separate(reader, attention, heads)
    o = reader.need(attention, "o")
    width = reader.weight(o, "o")[3]
    if width != heads.q * heads.v_dim:
        raise reader.fault(f"o to read {heads.q} heads of {heads.v_dim}, got {width} inputs", "o")
    n_kv_heads = next(pattern.n for pattern in patterns if pattern.role == "k")
    patterns = (*patterns, reader.inputs(o, "q", "o", heads.q, heads.v_dim))
    interface = hasattr(sys.modules[type(attention).__module__], "ALL_ATTENTION_FUNCTIONS")
    return AttentionAnatomy(
        f"{reader.name}.{name}", heads.q, n_kv_heads, heads.dim, heads.v_dim, interface, patterns
    )  # fmt: skip


def _stated_heads(reader: LayerReader, attention: nn.Module) -> Heads:
    q = reader.number(attention, "heads", "num_attention_heads", "num_heads")
    even = getattr(reader.config, "hidden_size", 0) // q or None
    dim = reader.number(attention, "head_dim", "qk_head_dim", "head_dim", "head_size", default=even)
    v_dim = reader.number(attention, "v_head_dim", "v_head_dim", default=dim)
    kv = reader.number(attention, "kv_heads", *KV_HEADS, default=q)
    return Heads(q, kv, dim, v_dim)


def _separate(reader: LayerReader, attention: nn.Module, heads: Heads) -> tuple[UnitRows, ...]:
    modules = {role: reader.need(attention, role) for role in "qkv"}
    widths = {role: reader.weight(module, role)[2] for role, module in modules.items()}
    length = {"q": heads.dim, "k": heads.dim, "v": heads.v_dim}
    step = {**length, "q": heads.dim * (2 if reader.declared.q_gated else 1)}
    counts = {role: widths[role] // step[role] for role in "qkv"}
    whole = not any(widths[role] % step[role] for role in "qkv")
    if not whole or counts["q"] != heads.q or counts["k"] != counts["v"] or heads.q % counts["k"]:
        raise reader.fault(
            f"{heads.q} heads of {heads.dim} rows in q, as many k as v, got {list(widths.values())} rows", "head_dim"
        )
    return tuple(reader.outputs(modules[r], r, r, counts[r], length[r], step[r]) for r in "qkv")


def _latent(reader: LayerReader, attention: nn.Module, heads: Heads) -> tuple[UnitRows, ...]:
    """Multi-head latent attention. A K head owns the rows of its part without position; the part with the
    rotation is one for all heads and belongs to none."""
    q, kv = reader.need(attention, "q"), reader.need(attention, "kv")
    weight, axis, width, _ = reader.weight(kv, "kv")
    k_dim = width // heads.q - heads.v_dim
    q_width = reader.weight(q, "q")[2]
    if width % heads.q or not 0 < k_dim <= heads.dim or q_width != heads.q * heads.dim:
        raise reader.fault(f"{heads.q} heads of {heads.dim}, got {q_width} rows in q and {width} in kv", "head_dim")
    bias, step = reader.bias(kv), k_dim + heads.v_dim
    return (
        reader.outputs(q, "q", "q", heads.q, heads.dim, heads.dim),
        UnitRows("k", "k", weight, bias, axis, heads.q, k_dim, 0, step, heads.q, 0),
        UnitRows("v", "v", weight, bias, axis, heads.q, heads.v_dim, k_dim, step, heads.q, 0),
    )


def _fused(reader: LayerReader, attention: nn.Module, heads: Heads) -> tuple[UnitRows, ...]:
    """Groups that each hold some Q heads, then K heads, then V heads: one group for all (blocks), or one for
    each K/V head (grouped). Multi-query attention is the same either way."""
    declared = reader.declared
    found = reader.child(attention, declared.qkv)
    if found is None:
        raise reader.fault(f"a projection of q, or of q, k and v fused, found {children(attention)}", "q")
    name, fused = found
    weight, axis, width, _ = reader.weight(fused, "qkv")
    if width != (heads.q + 2 * heads.kv) * heads.dim:
        raise reader.fault(f"{heads.q} + 2 x {heads.kv} heads of {heads.dim}, got {width} rows in {name}", "kv_heads")
    if declared.qkv_layout is None:
        raise reader.fault(f"a declaration of the order of the rows of {name} (blocks or grouped)", "qkv_layout")
    groups = heads.kv if declared.qkv_layout == "grouped" else declared.qkv_blocks
    if heads.q % groups or heads.kv % groups:
        raise reader.fault(f"{heads.q} and {heads.kv} heads to divide into {groups} groups", "qkv_blocks")
    patterns: list[UnitRows] = []
    start = 0
    for role in declared.qkv_order:
        n = heads.q if role == "q" else heads.kv
        owned = (n, heads.dim, start, heads.dim, n // groups, width // groups)
        patterns.append(UnitRows(role, role, weight, reader.bias(fused), axis, *owned))
        start += n // groups * heads.dim
    return tuple(patterns)
