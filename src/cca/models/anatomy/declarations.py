"""Declarations: how an architecture spells its modules, and the table of those that structure cannot tell.

The defaults list the spellings in common use; the first that exists in a layer is used. So an architecture
with separate projections usually needs no entry. What shapes cannot show, the order of a fused projection,
must be declared: one line in `DECLARATIONS`, or a declaration given by the user.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml

from cca.errors import CcaError, suggestion

Names = tuple[str, ...]


@dataclass(frozen=True)
class Declaration:
    """Names of modules; each a dotted path, or several to try in turn. ``.`` is the parent itself."""

    layers: Names = ("layers", "h", "blocks")
    """The list of decoder layers: its path from the model, or the end of its path within the decoder."""
    attention: Names = ("self_attn", "self_attention", "attention", "attn.attention", "attn")
    """The attention module, within a layer."""
    no_attention: Names = ("linear_attn", "mamba", "mixer", "conv", "short_conv", "recurrent")
    """The module that a layer without attention has instead."""
    q: Names = ("q_proj", "q_b_proj")
    k: Names = ("k_proj",)
    v: Names = ("v_proj",)
    """Separate projections, within the attention module."""
    kv: Names = ("kv_b_proj",)
    """A projection of K and V from a latent (DeepSeek), used where there is no ``k``: per head K, then V."""
    qkv: Names = ("qkv_proj", "query_key_value", "c_attn", "Wqkv")
    """A fused projection, used where there is no ``q``."""
    qkv_layout: str | None = None
    """``blocks``: all of Q, then all of K, all of V; ``grouped``: for each K/V head its Q heads, K, V."""
    qkv_blocks: int = 1
    """The number of such blocks (CodeGen: 4, a trace of its model-parallel training)."""
    qkv_order: str = "qkv"
    """The order within a block or group."""
    q_gated: bool = False
    """Each Q head's rows are followed by as many rows of an output gate (Qwen3-Next)."""
    o: Names = ("o_proj", "out_proj", "dense", "c_proj")
    """The output projection, within the attention module."""
    heads: int | None = None
    kv_heads: int | None = None
    head_dim: int | None = None
    v_head_dim: int | None = None
    """Counts; read from the attention module and the config when not declared."""
    mlp: Names = ("mlp", "feed_forward", "block_sparse_moe", "ffn", ".")
    """The MLP, or the mixture of experts, within a layer."""
    up: Names = ("up_proj", "fc1", "fc_in", "c_fc", "dense_h_to_4h")
    gate: Names = ("gate_proj",)
    down: Names = ("down_proj", "fc2", "fc_out", "c_proj", "dense_4h_to_h")
    """Projections within the MLP; of two that feed ``down``, ``gate`` is the one that is activated."""
    gate_up: Names = ("gate_up_proj",)
    """A fused gate and up projection, used where there is no ``up``."""
    gate_up_layout: str | None = None
    """``halves``: all gate rows, then all up rows; ``interleaved``: gate, up, gate, up, ..."""
    experts: Names = ("experts",)
    """Experts in 3-D parameters, within the MLP."""
    experts_transposed: bool | None = None
    """Experts' weights are (experts, inputs, outputs); transformers marks most experts with it."""
    shared: Names = ("shared_expert", "shared_experts", "shared_mlp")
    """An expert that every token passes, within the MLP or the layer."""
    routers: Names = ("router", "gate", "shared_expert_gate")
    """Modules that choose among experts; they hold no neurons."""
    others: Names = ("rotary_emb",)
    """Any other modules of a layer, outside attention, whose matrices hold no neurons."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = _checked(field.name, str(field.type), getattr(self, field.name))
            object.__setattr__(self, field.name, value)


# model_type -> what differs from the defaults. One line makes a new architecture.
DECLARATIONS: dict[str, dict[str, Any]] = {
    "phi3": {"qkv_layout": "blocks", "gate_up_layout": "halves"},
    "glm": {"gate_up_layout": "halves"},
    "glm4": {"gate_up_layout": "halves"},
    "gpt_neox": {"qkv_layout": "grouped"},
    "gpt_neox_japanese": {"qkv_layout": "grouped"},
    "gpt2": {"qkv_layout": "blocks"},
    "gpt_bigcode": {"qkv_layout": "grouped"},
    "codegen": {"qkv_layout": "blocks", "qkv_blocks": 4, "qkv_order": "qvk"},
    "falcon": {"qkv_layout": "grouped"},
    "bloom": {"qkv_layout": "grouped"},
    "mpt": {"qkv_layout": "blocks"},
    "persimmon": {"qkv_layout": "grouped"},
    "qwen3_next": {"q_gated": True},
    "qwen3_5_text": {"q_gated": True},
    "qwen3_5_moe_text": {"q_gated": True},
    "gemma4_text": {"others": ["per_layer_input_gate", "per_layer_projection"]},
    "lfm2": {"gate": "w1", "up": "w3", "down": "w2"},
    "llama4_text": {"experts_transposed": True, "gate_up_layout": "halves"},
    "granitemoeshared": {"gate_up": "input_linear", "gate_up_layout": "halves", "down": "output_linear"},
    "modernbert-decoder": {
        "layers": "model.layers",
        "o": "Wo",
        "gate_up": "Wi",
        "gate_up_layout": "halves",
        "down": "Wo",
    },
}

CHOICES = {
    "qkv_layout": ("blocks", "grouped"),
    "gate_up_layout": ("halves", "interleaved"),
    "qkv_order": ("qkv", "qvk"),
}


def declaration_for(model_type: str, given: Declaration | Mapping[str, Any] | Path | str | None = None) -> Declaration:
    """The defaults, then the table's entry for ``model_type``, then what was given, each over the last."""
    if isinstance(given, Declaration):
        return given
    declared = _merged(Declaration(), DECLARATIONS.get(model_type, {}), f"declaration of {model_type}")
    if given is None:
        return declared
    if isinstance(given, Path | str):
        return _merged(declared, read_declaration(Path(given)), str(given))
    return _merged(declared, given, "anatomy declaration")


def read_declaration(path: Path) -> dict[str, Any]:
    """Read a declaration from YAML: a mapping with the fields of `Declaration`."""
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        problem = " ".join(str(error).split())
        raise CcaError(f"{path}: expected a YAML file declaring an anatomy, got {problem}") from error
    if not isinstance(value, dict):
        raise CcaError(f"{path}: expected a mapping such as `attention: self_attn`, got {type(value).__name__}")
    return value


def _merged(base: Declaration, changes: Mapping[str, Any], where: str) -> Declaration:
    known = [field.name for field in fields(Declaration)]
    for key in changes:
        if key not in known:
            hint = suggestion(str(key), known) or f"; expected one of {', '.join(known)}"
            raise CcaError(f"{where}: unknown field {key!r}{hint}")
    try:
        return replace(base, **changes)
    except CcaError as error:
        raise CcaError(f"{where}: {error}") from error


def _checked(name: str, kind: str, value: Any) -> Any:
    """The value of a field, a lone name made a tuple. Raises CcaError saying what the field takes."""
    if kind == "Names":
        value = (value,) if isinstance(value, str) else value
        sound = isinstance(value, list | tuple) and value and all(isinstance(one, str) and one for one in value)
        wanted = "a module's name or a list of names"
    elif name in CHOICES:
        sound, wanted = value in CHOICES[name], f"one of {', '.join(CHOICES[name])}"
    elif kind.startswith("bool"):
        sound, wanted = isinstance(value, bool), "true or false"
    else:
        sound, wanted = type(value) is int and value >= 1, "a whole number of at least 1"
    if not sound and not (value is None and kind.endswith("| None")):
        raise CcaError(f"expected {name!r} to be {wanted}, got {value!r}")
    return tuple(value) if isinstance(value, list) else value
