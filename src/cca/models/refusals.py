"""Folders and weights that are not the model that was meant, each refused in one line."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from transformers import PreTrainedModel

from cca.errors import CcaError
from cca.files import read_json

ADAPTER = "adapter_config.json"


def refuse_other_files(name: str, path: Path) -> None:
    """Raise CcaError, which says what ``path`` is, unless it is a folder with config.json."""
    if (path / "config.json").is_file():
        return
    found = "no such folder"
    if path.is_file():
        found = _kind_of(path)
    elif (path / ADAPTER).is_file():
        settings = read_json(path / ADAPTER)
        base = settings.get("base_model_name_or_path") if isinstance(settings, dict) else None
        found = f"an adapter (PEFT) for {base or 'a model it does not name'}; merge it into that model first"
    elif path.is_dir():
        held = sorted(entry for entry in path.iterdir() if entry.suffix == ".gguf")
        found = f"a folder without config.json{f' that holds {_kind_of(held[0])}' if held else ''}"
    raise CcaError(f"model {name}: expected a model folder as save_pretrained writes it, got {found}")


def _kind_of(path: Path) -> str:
    with path.open("rb") as file:
        if file.read(4) == b"GGUF":
            return "a GGUF file; give a folder of safetensors, with the weights dequantised"
    return "a file; give the folder it is in"


def refuse_other_shapes(name: str, mismatched: Iterable[tuple[str, Sequence[int], Sequence[int]]]) -> None:
    """Raise CcaError that names the first of the tensors whose shapes, the checkpoint's and the model's, differ."""
    for tensor, stored, wanted in sorted(mismatched):
        raise CcaError(
            f"model {name}: {tensor} has the shape {list(stored)} in the checkpoint, {list(wanted)} by config.json; "
            "take both from the same model"
        )


def refuse_other_weights(name: str, model: PreTrainedModel, missing: Sequence[str], left: Sequence[str]) -> None:
    """Raise CcaError for a loaded model with weights that nobody trained.

    ``missing`` are parameters that the checkpoint does not hold, which transformers draws at random; ``left`` are the
    checkpoint's tensors that the model has no place for.
    """
    if missing:
        others = f" and {len(missing) - 1} others" if missing[1:] else ""
        has = f"; it has {min(left)}, which the model has not" if left else ""
        raise CcaError(
            f"model {name}: the checkpoint has no {min(missing)}{others}{has}; save all weights under the model's names"
        )
    if getattr(model, "_hf_peft_config_loaded", False):
        raise CcaError(
            f"model {name}: holds an adapter ({ADAPTER}) that transformers loads on top; merge it or remove the file"
        )
    for parameter, weights in model.named_parameters():
        known = weights.is_floating_point() and weights.dtype.itemsize > 1 and not weights.is_meta
        if known and not weights.isfinite().all():
            raise CcaError(f"model {name}: {parameter} holds NaN or infinite weights; fetch or save the model again")
