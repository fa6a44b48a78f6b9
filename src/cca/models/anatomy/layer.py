"""The anatomy of one decoder layer: its Q, K and V heads, its neurons, and the rows that each of them owns.

Heads are read from separate projections, a fused one, or K and V latent; neurons from a dense MLP, from experts in
stacked parameters, or from both.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cached_property

from torch import nn

from cca.models.anatomy.components import KINDS
from cca.models.anatomy.layer_reader import LayerReader, at, children, join
from cca.models.anatomy.weight_rows import UnitRows

KV_HEADS = ("num_kv_heads", "num_key_value_heads", "kv_heads")
Patterns = tuple[UnitRows, ...]


@dataclass(frozen=True)
class Experts:
    """Routed experts in fused 3-D parameters. Module ``module``; ``count`` experts of ``neurons`` neurons."""

    module: str
    count: int
    neurons: int


@dataclass(frozen=True)
class LayerAnatomy:
    """The heads and neurons of one layer, and where they are stored. Module names are dotted, from the model."""

    index: int
    module: str
    attention: str | None
    """None where the layer has no attention; its head counts are then 0."""
    interface: bool
    """Attention goes through transformers' AttentionInterface. Where not (Falcon, GPT-J, BLOOM, MPT, ...),
    q, k and v can only be reached at the output of their projections: `pattern("q").module`, whose output
    features `pattern("q").indices(heads)` are each head's. None of those normalises q or k."""
    experts: Experts | None
    down: str | None
    """The down projection of the dense MLP or the shared expert; its inputs are the neurons after the routed ones."""
    patterns: Patterns

    @cached_property
    def _counts(self) -> dict[str, int]:
        return {kind: max((p.first + p.n for p in self.patterns if p.kind == kind), default=0) for kind in KINDS}

    def count(self, kind: str) -> int:
        """The number of components of this kind; of neurons the routed ones, then those of ``down``."""
        return self._counts[kind]

    @property
    def n_heads(self) -> int:
        return self.count("q")

    @property
    def n_kv_heads(self) -> int:
        return self.count("k")

    @property
    def head_dim(self) -> int:
        """Features of q and k per head as attention reads them."""
        return self.pattern("q").length if self.attention else 0

    @property
    def n_routed(self) -> int:
        return self.experts.count * self.experts.neurons if self.experts else 0

    def pattern(self, role: str) -> UnitRows:
        """The pattern of an attention role (q, k, v, o). MLP roles can have two: routed and shared."""
        return next(pattern for pattern in self.patterns if pattern.role == role)


def read_layer(reader: LayerReader) -> LayerAnatomy:
    """Read a layer off its modules. Raises CcaError naming the field to declare."""
    found, heads = _read_attention(reader)
    experts, down, neurons = _read_mlp(reader)
    _check_nothing_missed(reader, heads + neurons, routed=experts is not None)
    name, interface = None, False
    if found is not None:
        name = f"{reader.name}.{found[0]}"
        interface = hasattr(sys.modules[type(found[1]).__module__], "ALL_ATTENTION_FUNCTIONS")
    return LayerAnatomy(reader.index, reader.name, name, interface, experts, down, heads + neurons)


def _check_nothing_missed(reader: LayerReader, patterns: Patterns, routed: bool) -> None:
    """Every matrix of the layer outside attention holds neurons that were found, or is known to hold none;
    a second MLP or a gate with an unusual name would go unnoticed otherwise."""
    declared = reader.declared
    known = {*declared.attention, *declared.no_attention, *declared.others, *(declared.routers if routed else ())}
    claimed = {pattern.weight for pattern in patterns} | {pattern.bias for pattern in patterns}
    for name, parameter in reader.layer.named_parameters():
        inside = {".".join(parts[:length]) for parts in [name.split(".")] for length in range(1, len(parts))}
        matrix = parameter.dim() >= 2 and reader.parameters[id(parameter)] not in claimed
        if matrix and not known & (inside | set(name.split("."))) and not name.endswith("bias"):
            raise reader.fault(f"to know what {name} {tuple(parameter.shape)} is", "others")


@dataclass(frozen=True)
class _Heads:
    """The counts that an attention module states; only fused projections state K/V heads."""

    q: int
    kv: int
    dim: int
    v_dim: int


def _read_attention(reader: LayerReader) -> tuple[tuple[str, nn.Module] | None, Patterns]:
    """(the attention module and its name within the layer, its patterns); None for a layer without attention."""
    found = reader.child(reader.layer, reader.declared.attention)
    types = getattr(reader.config, "layer_types", None) or ()
    if found is None or (len(types) > reader.index and types[reader.index] == "linear_attention"):
        if found is None and reader.child(reader.layer, reader.declared.no_attention) is None:
            raise reader.fault(f"an attention module, found {children(reader.layer)}", "attention")
        return None, ()
    attention = found[1]
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
    return found, (*patterns, reader.inputs(o, "q", "o", heads.q, heads.v_dim))


def _stated_heads(reader: LayerReader, attention: nn.Module) -> _Heads:
    q = reader.number(attention, "heads", "num_attention_heads", "num_heads")
    even = getattr(reader.config, "hidden_size", 0) // q or None
    dim = reader.number(attention, "head_dim", "qk_head_dim", "head_dim", "head_size", default=even)
    v_dim = reader.number(attention, "v_head_dim", "v_head_dim", default=dim)
    return _Heads(q, reader.number(attention, "kv_heads", *KV_HEADS, default=q), dim, v_dim)


def _separate(reader: LayerReader, attention: nn.Module, heads: _Heads) -> Patterns:
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


def _latent(reader: LayerReader, attention: nn.Module, heads: _Heads) -> Patterns:
    """Multi-head latent attention. A K head owns the rows of its part without position; the part with the
    rotation is one for all heads and belongs to none."""
    q, kv = reader.need(attention, "q"), reader.need(attention, "kv")
    width, q_width = reader.weight(kv, "kv")[2], reader.weight(q, "q")[2]
    k_dim = width // heads.q - heads.v_dim
    if width % heads.q or not 0 < k_dim <= heads.dim or q_width != heads.q * heads.dim:
        raise reader.fault(f"{heads.q} heads of {heads.dim}, got {q_width} rows in q and {width} in kv", "head_dim")
    step = k_dim + heads.v_dim
    return (
        reader.outputs(q, "q", "q", heads.q, heads.dim, heads.dim),
        reader.outputs(kv, "k", "kv", heads.q, k_dim, step),
        reader.outputs(kv, "v", "kv", heads.q, heads.v_dim, step, start=k_dim),
    )


def _fused(reader: LayerReader, attention: nn.Module, heads: _Heads) -> Patterns:
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


def _read_mlp(reader: LayerReader) -> tuple[Experts | None, str | None, Patterns]:
    """(the routed experts, the dense down projection, the patterns of both)."""
    declared = reader.declared
    for name in declared.mlp:
        mlp = at(reader.layer, name)
        if mlp is None:
            continue
        routed = reader.child(mlp, declared.experts)
        if routed is not None:
            experts, patterns = _experts(reader, f"{join(reader.name, name)}.{routed[0]}", routed[1])
            shared = reader.child(mlp, declared.shared) or reader.child(reader.layer, declared.shared)
            if shared is None:
                return experts, None, patterns
            down, dense = _dense(reader, shared[1], first=experts.count * experts.neurons)
            return experts, down, patterns + dense
        if reader.child(mlp, declared.down) is not None:
            return None, *_dense(reader, mlp, first=0)
    raise reader.fault(f"an MLP with a down projection, found {children(reader.layer)}", "mlp")


def _dense(reader: LayerReader, mlp: nn.Module, first: int) -> tuple[str, Patterns]:
    """(the down projection, the patterns) of an MLP whose neurons are numbered from ``first``."""
    declared = reader.declared
    down = reader.need(mlp, "down")
    weight, _, _, n = reader.weight(down, "down")
    up, gate = reader.child(mlp, declared.up), reader.child(mlp, declared.gate)
    if up is None:
        fused = reader.need(mlp, "gate_up")
        name, axis, width, _ = reader.weight(fused, "gate_up")
        if declared.gate_up_layout is None:
            raise reader.fault(f"a declaration of the order of the rows of {name}", "gate_up_layout")
        patterns = _gate_and_up(name, axis, reader.bias(fused), n, n, declared.gate_up_layout, first)
        widths = [width // 2]
    else:
        feeding = {role: found[1] for role, found in (("up", up), ("gate", gate)) if found is not None}
        patterns = [reader.outputs(module, "neuron", role, n, 1, 1, first) for role, module in feeding.items()]
        widths = [reader.weight(module, "up")[2] for module in feeding.values()]
    if any(width != n for width in widths):
        raise reader.fault(f"{n} neurons, the inputs of {weight}, got {widths} from what feeds it", "up")
    return weight.rpartition(".")[0], (*patterns, reader.inputs(down, "neuron", "down", n, 1, first))


def _experts(reader: LayerReader, name: str, experts: nn.Module) -> tuple[Experts, Patterns]:
    """Experts as (E, A, B) parameters; transformers marks most with their orientation and layout."""
    declared, down = reader.declared, getattr(experts, "down_proj", None)
    if not isinstance(down, nn.Parameter) or down.dim() != 3:
        raise reader.fault(f"a 3-D parameter down_proj in {name}, found {children(experts)}", "experts")
    transposed = getattr(experts, "is_transposed", declared.experts_transposed)
    if transposed is None:
        raise reader.fault(f"a declaration of the orientation of the weights of {name}", "experts_transposed")
    inner = 1 if transposed else 2  # the axis of down that neurons lie on; in up it is the other
    count, each = down.shape[0], down.shape[inner]
    total = count * each
    fused, up = getattr(experts, "gate_up_proj", None), getattr(experts, "up_proj", None)
    if isinstance(fused, nn.Parameter):
        layouts = {True: "halves", False: "interleaved", None: declared.gate_up_layout}
        layout = layouts[getattr(experts, "is_concatenated", None)]
        if layout is None:
            raise reader.fault(f"a declaration of the order of the rows of gate_up_proj in {name}", "gate_up_layout")
        bias = reader.bias(experts, "gate_up_proj_bias")
        patterns = _gate_and_up(reader.parameters[id(fused)], 3 - inner, bias, total, each, layout, 0)
    elif isinstance(up, nn.Parameter):
        bias = reader.bias(experts, "up_proj_bias")
        patterns = [UnitRows("neuron", "up", reader.parameters[id(up)], bias, 3 - inner, total, 1, 0, 1, total, 0)]
    else:
        raise reader.fault(f"a 3-D parameter gate_up_proj or up_proj in {name}, found {children(experts)}", "experts")
    down_rows = UnitRows("neuron", "down", reader.parameters[id(down)], None, inner, total, 1, 0, 1, total, 0)
    return Experts(name, count, each), (*patterns, down_rows)


def _gate_and_up(
    weight: str, axis: int, bias: str | None, n: int, each: int, layout: str, first: int
) -> list[UnitRows]:
    """Patterns of a fused gate_up with ``n`` neurons, ``each`` of them together (an expert, or all)."""
    lines = [(0, 1), (each, 1)] if layout == "halves" else [(0, 2), (1, 2)]
    return [
        UnitRows("neuron", role, weight, bias, axis, n, 1, start, step, each, 2 * each, first)
        for role, (start, step) in zip(("gate", "up"), lines, strict=True)
    ]
