"""The anatomy of one decoder layer: its attention and its MLP or experts, and the rows each unit owns."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from cca.models.anatomy.attention import read_attention
from cca.models.anatomy.layer_reader import LayerReader, at, children, join
from cca.models.anatomy.weight_rows import UnitRows


@dataclass(frozen=True)
class LayerAnatomy:
    """The heads and neurons of one layer, and where they are stored. Module names are dotted, from the model."""

    index: int
    module: str
    attention: str | None
    """None where the layer has no attention; its head counts are then 0."""
    n_heads: int
    n_kv_heads: int
    head_dim: int
    """Features of q and k per head as attention reads them."""
    v_head_dim: int
    interface: bool
    """Attention goes through transformers' AttentionInterface. Where not (Falcon, GPT-J, BLOOM, MPT, ...),
    q, k and v can only be reached at the output of their projections: `pattern("q").module`, whose output
    features `pattern("q").indices(heads)` are each head's. None of those normalises q or k."""
    experts: Experts | None
    down: str | None
    """The down projection of the dense MLP or the shared expert: its input is (..., n_dense)."""
    n_dense: int
    patterns: tuple[UnitRows, ...]

    @property
    def n_routed(self) -> int:
        return self.experts.count * self.experts.neurons if self.experts else 0

    @property
    def n_neurons(self) -> int:
        """Routed neurons, expert by expert, then those of ``down``."""
        return self.n_routed + self.n_dense

    def count(self, kind: str) -> int:
        return {"q": self.n_heads, "k": self.n_kv_heads, "v": self.n_kv_heads, "neuron": self.n_neurons}[kind]

    def pattern(self, role: str) -> UnitRows:
        """The pattern of an attention role (q, k, v, o). MLP roles can have two: routed and shared."""
        return next(pattern for pattern in self.patterns if pattern.role == role)


def read_layer(reader: LayerReader) -> LayerAnatomy:
    """Read a layer off its modules. Raises CcaError naming the field to declare."""
    attention = read_attention(reader)
    mlp = read_mlp(reader)
    _check_nothing_missed(reader, attention.patterns + mlp.patterns, routed=mlp.experts is not None)
    return LayerAnatomy(
        index=reader.index,
        module=reader.name,
        attention=attention.module,
        n_heads=attention.n_heads,
        n_kv_heads=attention.n_kv_heads,
        head_dim=attention.head_dim,
        v_head_dim=attention.v_head_dim,
        interface=attention.interface,
        experts=mlp.experts,
        down=mlp.down,
        n_dense=mlp.n_dense,
        patterns=attention.patterns + mlp.patterns,
    )


def _check_nothing_missed(reader: LayerReader, patterns: tuple[UnitRows, ...], routed: bool) -> None:
    """Every matrix of the layer outside attention holds neurons that were found, or is known to hold none;
    a second MLP or a gate with an unusual name would go unnoticed otherwise."""
    declared = reader.declared
    known = set(declared.attention + declared.no_attention + declared.others)
    if routed:
        known |= set(declared.routers)
    claimed = {pattern.weight for pattern in patterns} | {pattern.bias for pattern in patterns}
    for name, parameter in reader.layer.named_parameters():
        inside = {".".join(parts[:length]) for parts in [name.split(".")] for length in range(1, len(parts))}
        matrix = parameter.dim() >= 2 and reader.parameters[id(parameter)] not in claimed
        if matrix and not known & (inside | set(name.split("."))) and not name.endswith("bias"):
            raise reader.fault(f"to know what {name} {tuple(parameter.shape)} is", "others")


@dataclass(frozen=True)
class Experts:
    """Routed experts in fused 3-D parameters. Module ``module``; ``count`` experts of ``neurons`` neurons."""

    module: str
    count: int
    neurons: int


@dataclass(frozen=True)
class MlpAnatomy:
    experts: Experts | None
    down: str | None
    n_dense: int
    patterns: tuple[UnitRows, ...]


def read_mlp(reader: LayerReader) -> MlpAnatomy:
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
                return MlpAnatomy(experts, None, 0, patterns)
            dense = _dense(reader, shared[1], first=experts.count * experts.neurons)
            return MlpAnatomy(experts, dense.down, dense.n_dense, patterns + dense.patterns)
        if reader.child(mlp, declared.down) is not None:
            return _dense(reader, mlp, first=0)
    raise reader.fault(f"an MLP with a down projection, found {children(reader.layer)}", "mlp")


def _dense(reader: LayerReader, mlp: nn.Module, first: int) -> MlpAnatomy:
    declared = reader.declared
    down = reader.need(mlp, "down")
    weight, _, _, n = reader.weight(down, "down")
    patterns: list[UnitRows] = []
    up, gate = reader.child(mlp, declared.up), reader.child(mlp, declared.gate)
    if up is None:
        fused = reader.need(mlp, "gate_up")
        name, axis, width, _ = reader.weight(fused, "gate_up")
        if declared.gate_up_layout is None:
            raise reader.fault(f"a declaration of the order of the rows of {name}", "gate_up_layout")
        patterns += _gate_and_up(name, axis, reader.bias(fused), n, n, declared.gate_up_layout, first)
        widths = [width // 2]
    else:
        patterns += [reader.outputs(up[1], "neuron", "up", n, 1, 1, first)]
        if gate is not None:
            patterns += [reader.outputs(gate[1], "neuron", "gate", n, 1, 1, first)]
        widths = [reader.weight(module[1], "up")[2] for module in (up, gate) if module is not None]
    if any(width != n for width in widths):
        raise reader.fault(f"{n} neurons, the inputs of {weight}, got {widths} from what feeds it", "up")
    patterns.append(reader.inputs(down, "neuron", "down", n, 1, first))
    return MlpAnatomy(None, weight.rpartition(".")[0], n, tuple(patterns))


def _experts(reader: LayerReader, name: str, experts: nn.Module) -> tuple[Experts, tuple[UnitRows, ...]]:
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
    patterns: tuple[UnitRows, ...]
    if isinstance(fused, nn.Parameter):
        layouts = {True: "halves", False: "interleaved", None: declared.gate_up_layout}
        layout = layouts[getattr(experts, "is_concatenated", None)]
        if layout is None:
            raise reader.fault(f"a declaration of the order of the rows of gate_up_proj in {name}", "gate_up_layout")
        bias = reader.bias(experts, "gate_up_proj_bias")
        patterns = _gate_and_up(reader.parameters[id(fused)], 3 - inner, bias, total, each, layout, 0)
    elif isinstance(up, nn.Parameter):
        bias = reader.bias(experts, "up_proj_bias")
        patterns = (UnitRows("neuron", "up", reader.parameters[id(up)], bias, 3 - inner, total, 1, 0, 1, total, 0),)
    else:
        raise reader.fault(f"a 3-D parameter gate_up_proj or up_proj in {name}, found {children(experts)}", "experts")
    down_rows = UnitRows("neuron", "down", reader.parameters[id(down)], None, inner, total, 1, 0, 1, total, 0)
    return Experts(name, count, each), (*patterns, down_rows)


def _gate_and_up(
    weight: str, axis: int, bias: str | None, n: int, each: int, layout: str, first: int
) -> tuple[UnitRows, ...]:
    """Patterns of a fused gate_up with ``n`` neurons, ``each`` of them together (an expert, or all)."""
    patterns: list[UnitRows] = []
    for number, role in enumerate(("gate", "up")):
        start, step = (number * each, 1) if layout == "halves" else (number, 2)
        patterns.append(UnitRows("neuron", role, weight, bias, axis, n, 1, start, step, each, 2 * each, first))
    return tuple(patterns)
