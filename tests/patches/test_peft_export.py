"""Adapters: one addition gives ``after`` to the bit or is refused; ranks, columns and odd cases load in PEFT."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftConfig, PeftModel
from safetensors.torch import load_file
from torch import Tensor
from toy import filled, same
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from cca.errors import CcaError
from cca.models.anatomy.weight_rows import get_rows
from cca.patches.algebra import nearest_reachable
from cca.patches.patch import Patch
from cca.patches.peft_export import _targets, export_lora, export_shira

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
PLACES = {
    "model.layers.0.mlp.up_proj.weight": (0, [1, 2, 30]),
    "model.layers.0.mlp.down_proj.weight": (1, [0, 5]),
    "model.layers.1.self_attn.q_proj.weight": (0, [3]),
    "model.layers.1.self_attn.o_proj.weight": (1, [7]),
}


def llama(dtype: torch.dtype = torch.float32, intermediate: int = 40, biased: bool = False) -> PreTrainedModel:
    config = LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=intermediate, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, mlp_bias=biased,
    )  # fmt: skip
    return filled(AutoModelForCausalLM.from_config(config), 0.2).to(dtype)  # type: ignore[arg-type]


def patch_of(model: PreTrainedModel, places: dict[str, tuple[int, list[int]]] = PLACES) -> Patch:
    edits = []
    for name, (axis, indices) in places.items():
        where = torch.tensor(indices)
        before = get_rows(model.get_parameter(name).detach(), axis, where)
        edits.append((name, axis, where, before, (before.float() * 1.25).to(before.dtype)))
    return Patch.from_edits(model, edits, base_model="tiny", base_revision="v1")


def merged_by_peft(model: PreTrainedModel, folder: Path) -> dict[str, Tensor]:
    return PeftModel.from_pretrained(copy.deepcopy(model), str(folder)).merge_and_unload().state_dict()


def patched(model: PreTrainedModel, patch: Patch) -> dict[str, Tensor]:
    with patch.applied(model):
        return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def padded(patch: Patch, out: Path, config: dict) -> int:
    return export_lora(patch, out, config, pad_ranks=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("export", [export_lora, padded, export_shira])
def test_merged_weights_are_the_patched_ones(
    tmp_path: Path, dtype: torch.dtype, export: Callable[[Patch, Path, dict], int]
) -> None:
    model = llama(dtype)
    patch = patch_of(model)
    export(patch, tmp_path / "adapter", model.config.to_dict())
    assert same(merged_by_peft(model, tmp_path / "adapter"), patched(model, patch))
    config = PeftConfig.from_pretrained(str(tmp_path / "adapter"))
    assert (config.base_model_name_or_path, config.revision) == ("tiny", "v1")
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_the_unmerged_adapter_computes_what_the_patched_model_does(tmp_path: Path) -> None:
    model = llama()
    patch = patch_of(model)
    export_lora(patch, tmp_path / "adapter", model.config.to_dict())
    tokens = torch.arange(12).view(1, -1)
    with torch.no_grad():
        adapted = PeftModel.from_pretrained(copy.deepcopy(model), str(tmp_path / "adapter"))(tokens).logits
        base = model(tokens).logits
        with patch.applied(model):
            direct = model(tokens).logits
    assert (direct - base).abs().max() > 0.01
    torch.testing.assert_close(adapted, direct, atol=1e-5, rtol=1e-4)


def test_ranks_are_as_small_as_the_edit_or_padded_to_what_servers_take(tmp_path: Path) -> None:
    model = llama()
    assert export_lora(patch_of(model), tmp_path / "own", model.config.to_dict()) == 3
    assert padded(patch_of(model), tmp_path / "padded", model.config.to_dict()) == 8
    ranks = {name: load_file(tmp_path / name / "adapter_model.safetensors") for name in ("own", "padded")}
    stem = "base_model.model.model.layers.{}.lora_A.weight"
    shapes = {
        name: [t[stem.format(m)].shape[0] for m in ("0.mlp.up_proj", "1.self_attn.q_proj")] for name, t in ranks.items()
    }
    assert shapes == {"own": [3, 1], "padded": [8, 8]}
    assert PeftConfig.from_pretrained(str(tmp_path / "padded")).rank_pattern == {}


def test_more_rows_than_any_server_takes_are_refused_when_padding(tmp_path: Path) -> None:
    model = llama(intermediate=600)
    patch = patch_of(model, {"model.layers.0.mlp.up_proj.weight": (0, list(range(513)))})
    with pytest.raises(CcaError, match=r"^model\.layers\.0\.mlp\.up_proj: needs rank 513, servers take at most 512"):
        padded(patch, tmp_path / "padded", model.config.to_dict())
    assert export_lora(patch, tmp_path / "own", model.config.to_dict()) == 513
    assert same(merged_by_peft(model, tmp_path / "own"), patched(model, patch))


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ({"model.layers.0.mlp.up_proj.bias": (0, [1])}, r"up_proj\.bias: no adapter can hold .*bias or norm: 1"),
        ({"model.norm.weight": (0, [1])}, r"norm\.weight: no adapter .*bias or norm: 1"),
        ({"model.embed_tokens.weight": (0, [1])}, r"embed_tokens\.weight: no adapter .*weight of a Embedding: 1"),
    ],
)
def test_what_an_adapter_cannot_hold_is_named(
    tmp_path: Path, places: dict[str, tuple[int, list[int]]], message: str
) -> None:
    model = llama(biased=True)
    for export in (export_lora, export_shira):
        with pytest.raises(CcaError, match=message):
            export(patch_of(model, {**PLACES, **places}), tmp_path / "adapter", model.config.to_dict())


def test_shira_refuses_a_module_it_would_fill(tmp_path: Path) -> None:
    model = llama()
    patch = patch_of(model, {"model.layers.0.mlp.up_proj.weight": (0, list(range(40)))})
    with pytest.raises(CcaError, match=r"up_proj: SHiRA's rank 12 asks for 672 weights, it has 640"):
        export_shira(patch, tmp_path / "adapter", model.config.to_dict())


def test_weights_out_of_reach_are_refused_unless_the_nearest_will_do(tmp_path: Path) -> None:
    model = llama()
    name = "model.layers.0.mlp.up_proj.weight"
    with torch.no_grad():
        model.get_parameter(name)[1] = 1.0
    before = model.get_parameter(name).detach()[1:2].clone()
    after = before.clone()
    after[0, 3:5] = 1e-10  # 1 + d is 1e-10 for no float32 d
    patch = Patch.from_edits(model, [(name, 0, torch.tensor([1]), before, after)], "tiny")
    with pytest.raises(CcaError, match="2 of 16 touched weights are not reached to the bit"):
        export_lora(patch, tmp_path / "adapter", model.config.to_dict())
    export_lora(patch, tmp_path / "adapter", model.config.to_dict(), nearest=True)
    merged = merged_by_peft(model, tmp_path / "adapter")[name]
    torch.testing.assert_close(merged[1:2], after, atol=1e-7, rtol=0)
    assert torch.equal(merged[1:2], nearest_reachable(before, after))


def test_what_cannot_be_exported_at_all_is_refused(tmp_path: Path) -> None:
    model = llama()
    config, patch, infinite = model.config.to_dict(), patch_of(model), patch_of(model)
    infinite.edits[0].after[0, 0] = torch.inf
    (tmp_path / "file").write_text("")
    for given, out, to, message in (
        (infinite, "adapter", config, "infinite or NaN"),
        (patch_of(model, {}), "adapter", config, "there is nothing to export"),
        (patch, "file", config, "expected a new folder"),
        (patch, "adapter", llama(intermediate=48).config.to_dict(),
         r"down_proj.weight: expected shape \[16, 40\], the model has \[16, 48\]"),
        (patch, "adapter", {"model_type": "nonsense"}, "cannot build a 'nonsense' model"),
    ):  # fmt: skip
        with pytest.raises(CcaError, match=message):
            export_lora(given, tmp_path / out, to)


def test_modules_whose_names_end_alike_are_not_adapted_along() -> None:
    """PEFT matches ends of names: a module 'mlp.up_proj' at the root would take in those of all layers."""
    model = torch.nn.ModuleDict({"up_proj": torch.nn.Linear(2, 2), "mlp": torch.nn.ModuleDict()})
    model["mlp"]["up_proj"] = torch.nn.Linear(2, 2)  # type: ignore[index]
    assert _targets(["mlp.up_proj"], model) == ["mlp.up_proj"]
    assert _targets(["up_proj"], model) == "up_proj"
