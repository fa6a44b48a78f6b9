"""A toy checkpoint of every kind of tensor, written as shards, and patches made on it."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from cca.models.anatomy.weight_rows import EACH, get_rows, same_bits, set_rows_
from cca.patches.patch import Patch, TensorEdit

SHAPES = {
    "rows": (9, 6), "columns": (7, 8), "bias": (11,), "experts": (3, 4, 5), "other_experts": (3, 5, 4),
    "expert_biases": (3, 4), "untouched": (4, 4),
}  # fmt: skip
PLACES = {  # one of every rank and axis that a patch can touch
    "rows": (0, [0, 1, 2, 5, 8]), "columns": (1, [0, 3, 7]), "bias": (0, [2, 3, 10]), "experts": (1, [0, 7, 8, 11]),
    "other_experts": (2, [1, 2, 11]), "expert_biases": (EACH, [0, 7, 11]),
}  # fmt: skip
REPORT = {
    "base": {"accuracy": 0.5, "problems": 400}, "patched": {"accuracy": 0.75},
    "gain": {"points": 25.0, "interval": [20.0, 30.0], "p_value": 0.0004},
    "share": {"components": 0.01, "heads": 0.0, "neurons": 0.02, "parameters": 0.0046},
    "drift": {"kl": 3e-6, "tokens": 1000},
    "retention": {"trivia": {"base": 0.9, "patched": 0.895, "interval": [-1.0, 0.5], "problems": 10}},
    "timing": {"amplify": {"seconds": 3}}, "fingerprint": "abc",
}  # fmt: skip
"""A run's report.json, as far as a patch claims it."""
SHARDS = {"rows": 1, "columns": 1, "bias": 2, "experts": 2, "other_experts": 3, "expert_biases": 3, "untouched": 4}


def toy_weights(dtype: torch.dtype = torch.float32, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in SHAPES.items()}


def write_folder(folder: Path, weights: dict[str, Tensor]) -> Path:
    """Four shards with their index, and other files as a model folder has them."""
    folder.mkdir(parents=True)
    shard_of = {name: f"model-{SHARDS[name]:05d}-of-00004.safetensors" for name in weights}
    for shard in set(shard_of.values()):
        held = {name: tensor for name, tensor in weights.items() if shard_of[name] == shard}
        save_file(held, folder / shard, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": shard_of}))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "assets").mkdir()
    (folder / "assets" / "note.txt").write_text("kept")
    (folder / "pytorch_model.bin").write_bytes(b"old weights")
    return folder


def read_folder(folder: Path) -> dict[str, Tensor]:
    """The weights as any other program would read them."""
    read: dict[str, Tensor] = {}
    for shard in sorted(folder.glob("*.safetensors")):
        read.update(load_file(shard))
    return read


def patched(weights: dict[str, Tensor], change: float = 0.5) -> dict[str, Tensor]:
    result = {name: tensor.clone() for name, tensor in weights.items()}
    for name, (axis, indices) in PLACES.items():
        where = torch.tensor(indices)
        set_rows_(result[name], axis, where, get_rows(result[name], axis, where) + change)
    return result


def toy_patch(weights: dict[str, Tensor], change: float = 0.5, names: tuple[str, ...] = tuple(PLACES)) -> Patch:
    model = nn.ParameterDict(weights)
    edits = [edit_of(model, name, *PLACES[name], change) for name in names]
    return Patch.from_edits(model, edits, base_model="toy", base_revision="v1", made_by={"cca": "test"})


def filled(model: PreTrainedModel, scale: float = 1.0) -> PreTrainedModel:
    """The model with the same random weights each time."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return model.eval()


def edit_of(model: nn.Module, name: str, axis: int, indices: list[int], change: float = 0.5) -> TensorEdit:
    where = torch.tensor(indices)
    before = get_rows(model.get_parameter(name).detach(), axis, where)
    return TensorEdit(name, axis, where, before, before + change)


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(same_bits(left[name], right[name]) for name in left)
