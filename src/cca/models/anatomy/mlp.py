"""Where a layer keeps its MLP neurons: gated or plain, gate and up fused or not, experts, a shared expert."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from cca.models.anatomy.layer_reader import Place, at, children, join
from cca.models.anatomy.weight_rows import UnitRows


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


def read_mlp(place: Place) -> MlpAnatomy:
    declared = place.declared
    for name in declared.mlp:
        mlp = at(place.layer, name)
        if mlp is None:
            continue
        routed = place.child(mlp, declared.experts)
        if routed is not None:
            experts, patterns = _experts(place, f"{join(place.name, name)}.{routed[0]}", routed[1])
            shared = place.child(mlp, declared.shared) or place.child(place.layer, declared.shared)
            if shared is None:
                return MlpAnatomy(experts, None, 0, patterns)
            dense = _dense(place, shared[1], first=experts.count * experts.neurons)
            return MlpAnatomy(experts, dense.down, dense.n_dense, patterns + dense.patterns)
        if place.child(mlp, declared.down) is not None:
            return _dense(place, mlp, first=0)
    raise place.fault(f"an MLP with a down projection, found {children(place.layer)}", "mlp")


def _dense(place: Place, mlp: nn.Module, first: int) -> MlpAnatomy:
    declared = place.declared
    down = place.need(mlp, "down")
    weight, _, _, n = place.weight(down, "down")
    patterns: list[UnitRows] = []
    up, gate = place.child(mlp, declared.up), place.child(mlp, declared.gate)
    if up is None:
        fused = place.need(mlp, "gate_up")
        name, axis, width, _ = place.weight(fused, "gate_up")
        if declared.gate_up_layout is None:
            raise place.fault(f"to be told the order of the rows of {name}", "gate_up_layout")
        patterns += _gate_and_up(name, axis, place.bias(fused), n, n, declared.gate_up_layout, first)
        widths = [width // 2]
    else:
        patterns += [place.outputs(up[1], "neuron", "up", n, 1, 1, first)]
        if gate is not None:
            patterns += [place.outputs(gate[1], "neuron", "gate", n, 1, 1, first)]
        widths = [place.weight(module[1], "up")[2] for module in (up, gate) if module is not None]
    if any(width != n for width in widths):
        raise place.fault(f"{n} neurons, the inputs of {weight}, got {widths} from what feeds it", "up")
    patterns.append(place.inputs(down, "neuron", "down", n, 1, first))
    return MlpAnatomy(None, weight.rpartition(".")[0], n, tuple(patterns))


def _experts(place: Place, name: str, experts: nn.Module) -> tuple[Experts, tuple[UnitRows, ...]]:
    """Experts as (E, A, B) parameters; transformers marks most with their orientation and layout."""
    declared, down = place.declared, getattr(experts, "down_proj", None)
    if not isinstance(down, nn.Parameter) or down.dim() != 3:
        raise place.fault(f"a 3-D parameter down_proj in {name}, found {children(experts)}", "experts")
    transposed = getattr(experts, "is_transposed", declared.experts_transposed)
    if transposed is None:
        raise place.fault(f"to be told which way the weights of {name} lie", "experts_transposed")
    inner = 1 if transposed else 2  # the axis of down that neurons lie on; in up it is the other
    count, each = down.shape[0], down.shape[inner]
    total = count * each
    fused, up = getattr(experts, "gate_up_proj", None), getattr(experts, "up_proj", None)
    patterns: tuple[UnitRows, ...]
    if isinstance(fused, nn.Parameter):
        layouts = {True: "halves", False: "interleaved", None: declared.gate_up_layout}
        layout = layouts[getattr(experts, "is_concatenated", None)]
        if layout is None:
            raise place.fault(f"to be told the order of the rows of gate_up_proj in {name}", "gate_up_layout")
        bias = place.bias(experts, "gate_up_proj_bias")
        patterns = _gate_and_up(place.parameters[id(fused)], 3 - inner, bias, total, each, layout, 0)
    elif isinstance(up, nn.Parameter):
        bias = place.bias(experts, "up_proj_bias")
        patterns = (
            UnitRows("neuron", "up", place.parameters[id(up)], bias, 3 - inner, total, 1, 0, 1, total, 0),
        )
    else:
        raise place.fault(
            f"a 3-D parameter gate_up_proj or up_proj in {name}, found {children(experts)}", "experts"
        )
    down_rows = UnitRows("neuron", "down", place.parameters[id(down)], None, inner, total, 1, 0, 1, total, 0)
    return Experts(name, count, each), (*patterns, down_rows)


def _gate_and_up(
    weight: str, axis: int, bias: str | None, n: int, each: int, layout: str, first: int
) -> tuple[UnitRows, ...]:
    """Patterns of a fused gate_up with ``n`` neurons, ``each`` of them together (an expert, or all)."""
    patterns: list[UnitRows] = []
    for number, role in enumerate(("gate", "up")):
        start, step = (number * each, 1) if layout == "halves" else (number, 2)
        patterns.append(
            UnitRows("neuron", role, weight, bias, axis, n, 1, start, step, each, 2 * each, first)
        )
    return tuple(patterns)
