"""Finding parameters in checkpoints whose names or shapes are not the model's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from toy import edit_of, filled
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, MixtralConfig, PreTrainedModel

from cca.errors import CcaError
from cca.files import write_json
from cca.models.anatomy.weight_rows import tensor_hash
from cca.models.checkpoint import open_checkpoint
from cca.patches.apply import write_copy
from cca.patches.diff import diff
from cca.patches.layout import Layout, merge_objection
from cca.patches.patch import Patch
from cca.patches.stored_rows import scan

SMALL = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}


def mixtral() -> PreTrainedModel:
    config = MixtralConfig(**SMALL, intermediate_size=8, num_key_value_heads=1, num_local_experts=3)
    return filled(AutoModelForCausalLM.from_config(config))


def gpt2() -> PreTrainedModel:
    config = GPT2Config(vocab_size=32, n_embd=16, n_layer=2, n_head=2, n_positions=16)
    return filled(AutoModelForCausalLM.from_config(config))


def rewritten(folder: Path, change: dict[str, str | None]) -> Path:
    """The folder's single shard with names that start with a key of ``change`` renamed, or dropped if None."""
    path = folder / "model.safetensors"
    renamed = {}
    for name, tensor in load_file(path).items():
        start = next((start for start in change if name.startswith(start)), None)
        new = name if start is None else change[start]
        if new is not None:
            renamed[name if start is None else new + name.removeprefix(start)] = tensor
    save_file(renamed, path, metadata={"format": "pt"})
    return folder


def edited(model: PreTrainedModel, name: str, axis: int, index: int) -> Patch:
    return Patch.from_edits(model, [edit_of(model, name, axis, [index])], "tiny")


def test_experts_stored_one_by_one_are_the_fused_parameter(tmp_path: Path) -> None:
    model = mixtral()
    model.save_pretrained(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    name = "model.layers.1.mlp.experts.gate_up_proj"
    assert name not in checkpoint.tensors
    parameter = model.get_parameter(name)
    (stored,) = Layout(checkpoint).find(name, parameter.shape)
    assert len(stored.pieces) == 6
    edit = edited(model, name, 1, 17).edits[0]
    with checkpoint.open(checkpoint.shards) as files:
        assert scan(stored, edit, files)[1] == tensor_hash(parameter)


def test_an_expert_that_is_missing_is_refused_by_the_parameters_name(tmp_path: Path) -> None:
    model = mixtral()
    model.save_pretrained(tmp_path)
    rewritten(tmp_path, {"model.layers.1.block_sparse_moe.experts.2.w3": None})
    name = "model.layers.1.mlp.experts.gate_up_proj"
    with pytest.raises(CcaError, match=rf"^{name}: expected shape \[3, 16, 16\] in .*, it has no such tensor"):
        Layout(open_checkpoint(tmp_path)).find(name, model.get_parameter(name).shape)


def test_experts_of_different_shapes_are_refused(tmp_path: Path) -> None:
    mixtral().save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.1.block_sparse_moe.experts.2.w2.weight"] = torch.zeros(16, 9)
    save_file(tensors, path)
    with pytest.raises(CcaError, match=r"experts\.down_proj: its experts are stored in different shapes"):
        _ = Layout(open_checkpoint(tmp_path)).parameters


def test_a_checkpoint_without_the_models_prefix(tmp_path: Path) -> None:
    model = gpt2()
    model.save_pretrained(tmp_path / "base")
    rewritten(tmp_path / "base", {"transformer.": ""})
    patch = edited(model, "transformer.h.1.attn.c_attn.weight", 1, 5)
    write_copy(tmp_path / "base", patch, tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    patch.check(merged, "after")


@pytest.mark.parametrize(
    "stored", [["transformer.wte.weight"], ["lm_head.weight"], ["transformer.wte.weight", "lm_head.weight"]]
)
def test_tied_weights_are_edited_under_whatever_names_they_are_stored(tmp_path: Path, stored: list[str]) -> None:
    model = gpt2()
    base = model.get_parameter("transformer.wte.weight").detach().clone()
    patch = edited(model, "lm_head.weight", 0, 3)
    assert patch.tied == {"transformer.wte.weight": ["lm_head.weight"]}
    model.save_pretrained(tmp_path / "base")
    path = tmp_path / "base" / "model.safetensors"
    others = {name: tensor for name, tensor in load_file(path).items() if name != "transformer.wte.weight"}
    save_file({**others, **{name: base.clone() for name in stored}}, path)
    write_copy(tmp_path / "base", patch, tmp_path / "merged")
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    patch.apply(model)
    for name in stored:
        assert torch.equal(merged[name], model.get_parameter("lm_head.weight"))
    made = diff(tmp_path / "base", tmp_path / "merged", "tiny")
    assert (made.edits, made.tied, made.base_hashes) == (patch.edits, patch.tied, patch.base_hashes)


def test_tied_weights_that_differ_are_refused_by_diff(tmp_path: Path) -> None:
    model = gpt2()
    base = model.get_parameter("transformer.wte.weight").detach().clone()
    for number, folder in enumerate(("base", "edited")):
        model.save_pretrained(tmp_path / folder)
        path = tmp_path / folder / "model.safetensors"
        copies = {"transformer.wte.weight": base.clone(), "lm_head.weight": base.clone()}
        copies["transformer.wte.weight"][1] += number
        copies["lm_head.weight"][2] += number
        save_file({**load_file(path), **copies}, path)
    with pytest.raises(CcaError, match=r"^lm_head\.weight: is tied to transformer\.wte\.weight but holds other values"):
        diff(tmp_path / "base", tmp_path / "edited", "tiny")


def test_diff_looks_past_a_stored_head_that_is_tied_and_tensors_that_no_loader_reads(tmp_path: Path) -> None:
    config = LlamaConfig(**SMALL, intermediate_size=24, tie_word_embeddings=True)
    model = filled(AutoModelForCausalLM.from_config(config))
    model.save_pretrained(tmp_path / "base")
    patch = edited(model, "model.layers.0.mlp.up_proj.weight", 0, 3)
    patch.apply(model)
    model.save_pretrained(tmp_path / "edited")
    path = tmp_path / "edited" / "model.safetensors"
    weights = load_file(path)
    for name, extra in (
        ("lm_head.weight", weights["model.embed_tokens.weight"].clone()),
        ("model.layers.0.self_attn.rotary_emb.inv_freq", torch.ones(4)),
    ):
        save_file({**weights, name: extra}, path)
        for one, two in (("base", "edited"), ("edited", "base")):
            made = diff(tmp_path / one, tmp_path / two, "tiny")
            assert [(edit.parameter, edit.indices.tolist()) for edit in made.edits] == [
                ("model.layers.0.mlp.up_proj.weight", [3])
            ]
    model.lm_head.weight = nn.Parameter(model.lm_head.weight + 1)
    save_file({**weights, "lm_head.weight": model.lm_head.weight.detach()}, path)
    with pytest.raises(CcaError, match=r"^lm_head\.weight: is tied to model\.embed_tokens\.weight"):
        diff(tmp_path / "base", tmp_path / "edited", "tiny")


def test_diff_of_a_mixture_of_experts_has_the_models_names(tmp_path: Path) -> None:
    model = mixtral()
    model.save_pretrained(tmp_path / "base")
    patch = edited(model, "model.layers.0.mlp.experts.down_proj", 2, 11)
    patch.apply(model)
    model.save_pretrained(tmp_path / "edited")
    made = diff(tmp_path / "base", tmp_path / "edited", "tiny")
    assert (made.edits, made.base_hashes) == (patch.edits, patch.base_hashes)


def test_architectures_with_code_of_their_own_keep_names_as_stored(tmp_path: Path) -> None:
    weights = {"own.name": torch.randn(40, 3, generator=torch.Generator().manual_seed(0))}
    for number, folder in enumerate(("base", "edited")):
        (tmp_path / folder).mkdir()
        changed = weights["own.name"].clone()
        changed[2] += number
        save_file({"own.name": changed}, tmp_path / folder / "model.safetensors")
        write_json(tmp_path / folder / "config.json", {"model_type": "nobody-knows"})
    patch = diff(tmp_path / "base", tmp_path / "edited", "tiny")
    assert [(edit.parameter, edit.indices.tolist()) for edit in patch.edits] == [("own.name", [2])]
    patch.apply(nn.ModuleDict({"own": nn.ParameterDict({"name": weights["own.name"]})}))


def test_a_patch_that_will_not_merge_is_known_from_the_headers(tmp_path: Path) -> None:
    model = gpt2()
    for name, held in (("tiny", model), ("experts", mixtral())):
        held.save_pretrained(tmp_path / name)
        assert merge_objection(tmp_path / name, held) is None
    for dtype in (torch.bfloat16, torch.float16):
        reason = merge_objection(tmp_path / "tiny", gpt2().to(dtype))
        assert reason is not None
        assert "as F32; set dtype: float32" in reason
    weights = load_file(tmp_path / "tiny" / "model.safetensors")
    (tmp_path / "tiny" / "model.safetensors").unlink()
    torch.save(weights, tmp_path / "tiny" / "pytorch_model.bin")
    reason = merge_objection(tmp_path / "tiny", model)
    assert reason is not None
    assert "save the model again as safetensors" in reason


def test_a_configuration_that_builds_no_model_is_refused(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1, 1)}, tmp_path / "model.safetensors")
    write_json(tmp_path / "config.json", {**LlamaConfig().to_dict(), "hidden_size": "wide"})
    with pytest.raises(CcaError, match="transformers cannot build a 'llama' model from it"):
        _ = Layout(open_checkpoint(tmp_path)).parameters
