"""The anatomy of one decoder layer: its attention and its MLP or experts, and the rows each unit owns."""

from __future__ import annotations

from dataclasses import dataclass

from cca.models.anatomy.attention import read_attention
from cca.models.anatomy.layer_reader import LayerReader
from cca.models.anatomy.mlp import Experts, read_mlp
from cca.models.anatomy.weight_rows import UnitRows


@dataclass(frozen=True)
class LayerAnatomy:
    """Where one layer keeps its heads and neurons. Module names are dotted, from the model."""

    index: int
    module: str
    attention: str | None
    """None where the layer has no attention; its head counts are then 0."""
    n_heads: int
    n_kv_heads: int
    head_dim: int
    """Of q and k as attention reads them."""
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
