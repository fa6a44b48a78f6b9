"""On every architecture: a patch applies and reverts to the bit, on disk too, and its LoRA merges to the same bits."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.pytorch_utils import Conv1D
from zoo import TINY

from cca.errors import CcaError
from cca.models.anatomy.weight_rows import get_rows, same_bits
from cca.models.checkpoint import EACH, row_shape
from cca.patches.apply import verify, write_copy
from cca.patches.patch import Patch
from cca.patches.peft_export import export_lora

AXES = {1: (0,), 2: (0, 1), 3: (1, 2)}
DTYPES = [torch.float32, torch.bfloat16]
NO_LORA = {"qwen3-moe": "mlp.down_proj"}  # its first layer is dense; PEFT takes the names there for fused experts


def patch_of(model: PreTrainedModel, linear_only: bool = False) -> Patch:
    """A few rows or columns of every parameter, in turn; or of the weights that a LoRA can hold."""
    generator = torch.Generator().manual_seed(0)
    edits = []
    for number, (name, parameter) in enumerate(model.named_parameters()):
        if parameter.dim() not in AXES or (linear_only and not is_linear(model, name)):
            continue  # the image patches of a vision tower are 4-D
        axes = AXES[parameter.dim()]
        axis = EACH if ".experts." in name and parameter.dim() == 2 else axes[number % len(axes)]
        count = row_shape(parameter.shape, axis)[0]
        indices = torch.randperm(count, generator=generator)[: 1 + number % 3].sort().values
        before = get_rows(parameter.detach(), axis, indices)
        # A small relative change, as training makes it: it never crosses zero, so one addition reaches it.
        factor = 1 + 0.2 * torch.rand(before.shape, generator=generator)
        edits.append((name, axis, indices, before, (before.float() * factor).to(before.dtype)))
    return Patch.from_edits(model, edits, base_model="tiny")


def is_linear(model: PreTrainedModel, name: str) -> bool:
    module, _, leaf = name.rpartition(".")
    tied = name.startswith("lm_head") or model.get_parameter(name) is model.get_input_embeddings().weight
    return leaf == "weight" and isinstance(model.get_submodule(module), nn.Linear | Conv1D) and not tied


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def differing(left: dict[str, Tensor], right: dict[str, Tensor]) -> list[str]:
    return [name for name in left.keys() | right.keys() if not same_bits(left[name], right[name])]


@pytest.fixture(params=[(name, dtype) for name in TINY for dtype in DTYPES], ids=lambda it: f"{it[0]}-{it[1]}"[:-2])
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    name, dtype = request.param
    return TINY[name]().to(dtype)


def test_apply_and_revert_in_memory(model: PreTrainedModel) -> None:
    base, patch = weights(model), patch_of(model)
    patch.apply(model)
    changed = differing(base, weights(model))
    assert {edit.parameter for edit in patch.edits} <= set(changed)
    assert set(changed) <= set(patch.base_hashes) | {name for names in patch.tied.values() for name in names}
    patch.revert(model)
    assert not differing(base, weights(model))


@pytest.mark.parametrize("model", [(name, torch.bfloat16) for name in TINY], indirect=True, ids=list(TINY))
def test_merge_on_disk_is_the_patched_model(model: PreTrainedModel, tmp_path: Path) -> None:
    patch = patch_of(model)
    model.save_pretrained(tmp_path / "base", max_shard_size="50KB")
    write_copy(tmp_path / "base", patch, tmp_path / "merged")
    assert verify(tmp_path / "base", patch) == "base"
    assert verify(tmp_path / "merged", patch) == "patched"
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype="auto")
    patch.apply(model)
    assert not differing(weights(model), weights(merged))
    write_copy(tmp_path / "merged", patch, tmp_path / "reverted", side="before")
    for shard in (tmp_path / "base").glob("*.safetensors"):
        assert (tmp_path / "reverted" / shard.name).read_bytes() == shard.read_bytes()


def test_a_lora_merged_by_peft_is_the_patched_model(
    model: PreTrainedModel, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    patch = patch_of(model, linear_only=True)
    refused = NO_LORA.get(request.node.callspec.params["model"][0])
    if refused:
        with pytest.raises(CcaError, match=rf"{refused}: PEFT does not load an adapter of it in a Qwen3Moe"):
            export_lora(patch, tmp_path / "lora", model.config.to_dict())
        assert not (tmp_path / "lora").exists()
        return
    export_lora(patch, tmp_path / "lora", model.config.to_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # as of adapter weights that were not found
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        loaded = PeftModel.from_pretrained(copy.deepcopy(model), str(tmp_path / "lora"))
    merged = weights(loaded.merge_and_unload())
    patch.apply(model)
    assert not differing(weights(model), merged)


@pytest.mark.parametrize("model", [("llama", torch.float32), ("mixtral", torch.bfloat16)], indirect=True)
def test_what_no_lora_can_hold_is_refused_by_name(model: PreTrainedModel, tmp_path: Path) -> None:
    with pytest.raises(CcaError, match=r": no adapter can hold this patch \(.*\); use `merge`"):
        export_lora(patch_of(model), tmp_path / "lora", model.config.to_dict())
    assert not list(tmp_path.iterdir())
