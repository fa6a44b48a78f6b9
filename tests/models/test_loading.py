from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

import tiny_world
from cca.errors import CcaError
from cca.models.checkpoint import JOURNALS
from cca.models.loading import Codec, load_model


def saved(folder: Path, architecture: str = "llama") -> Path:
    tiny_world.model(architecture, torch.float32).save_pretrained(folder)
    tiny_world.tokenizer().save_pretrained(folder)
    return folder


def digits_tokenizer() -> PreTrainedTokenizerFast:
    """Word-level, single digits, no decoder, and an end token after every text: what small models are often given."""
    words = ["<unk>", "<eos>", *"0123456789", "the", "answer", "is", "."]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Digits(True)])
    backend.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="<eos>")


def test_digits_that_a_tokenizer_splits_are_joined() -> None:
    codec = Codec(digits_tokenizer())
    assert codec.decode(codec.encode_continuation("the answer is 42.")) == "the answer is 42."


def test_a_prompt_never_ends_with_the_end_of_text() -> None:
    codec = Codec(digits_tokenizer())
    assert codec.encode("the answer") == codec.encode_continuation("the answer")


def test_other_tokenizers_keep_their_spaces() -> None:
    codec = Codec(tiny_world.tokenizer())
    assert codec.decode((5, 6, 7)) == "w5 w6 w7"


def test_soft_caps_are_not_lost(tmp_path: Path) -> None:
    assert load_model(str(saved(tmp_path / "gemma2", "gemma2"))).model.config._attn_implementation == "eager"
    assert load_model(str(saved(tmp_path / "llama"))).model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("journal", JOURNALS.values())
def test_a_model_that_an_edit_left_half_way_is_refused(tmp_path: Path, journal: str) -> None:
    folder = saved(tmp_path)
    (folder / journal).write_bytes(b"")
    with pytest.raises(CcaError, match="an edit in place was interrupted"):
        load_model(str(folder))


@pytest.mark.parametrize(
    ("said", "stored"), [(torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16)], ids=str
)
def test_auto_loads_weights_as_they_are_stored(tmp_path: Path, said: torch.dtype, stored: torch.dtype) -> None:
    folder = saved(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": str(said).removeprefix("torch.")}))
    path = folder / "model.safetensors"
    weights = {name: tensor.to(stored) for name, tensor in load_file(path).items()}
    save_file(weights, path, metadata={"format": "pt"})
    assert load_model(str(folder)).model.dtype == stored
    assert load_model(str(folder), dtype="float16").model.dtype == torch.float16


def rewritten(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> str:
    """The model in ``folder`` with its weights changed."""
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})
    return str(folder)


UP = "model.layers.1.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (
            lambda held: {f"module.{name}": held[name] for name in held},
            r"has no lm_head.weight and 20 .*; it has module\.",
        ),
        (lambda held: {name: held[name] for name in held if name != UP}, rf"has no {UP}; save all"),
        (lambda held: {name: held[name] for name in held if name != "lm_head.weight"}, "has no lm_head.weight; save"),
        (lambda held: {**held, UP: held[UP][:-1].clone()}, r"the shape \[47, 32\] in the checkpoint, \[48, 32\] by"),
        (lambda held: {**held, UP: held[UP] / 0}, f"{UP} holds NaN or infinite"),
    ],
)
def test_a_model_of_other_weights_is_refused(tmp_path: Path, change: Any, fault: str) -> None:
    with pytest.raises(CcaError, match=fault) as error:
        load_model(rewritten(saved(tmp_path), change))
    assert "\n" not in str(error.value)


def test_tied_weights_are_stored_once(tmp_path: Path) -> None:
    folder = saved(tmp_path, "llama-tied")
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    load_model(str(folder))


def test_what_is_no_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + bytes(20))
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text('{"base_model_name_or_path": "some/base"}')
    for path, said in (
        (tmp_path / "model.gguf", "got a GGUF file; give a folder of safetensors"),
        (tmp_path, "got a folder without config.json that holds a GGUF file"),
        (tmp_path / "adapter", r"got an adapter \(PEFT\) for some/base; merge it into that model first"),
        (tmp_path / "adapter" / "adapter_config.json", "got a file; give the folder it is in"),
    ):
        with pytest.raises(CcaError, match=said):
            load_model(str(path))


def test_an_adapter_left_in_a_model_folder_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    adapted = get_peft_model(tiny_world.model(dtype=torch.float32), LoraConfig(r=2, target_modules=["q_proj"]))
    adapted.save_pretrained(str(folder))
    with pytest.raises(CcaError, match=r"holds an adapter \(adapter_config.json\)"):
        load_model(str(folder))


def test_a_hub_model_is_known_by_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    commits = {"main": "a" * 40, "other": "b" * 40}
    hub = tmp_path / "models--some--tiny"
    for branch, commit in commits.items():
        saved(hub / "snapshots" / commit)
        (hub / "refs").mkdir(exist_ok=True)
        (hub / "refs" / branch).write_text(commit)
    assert load_model("some/tiny").commit == commits["main"]
    assert load_model("some/tiny", revision="other").commit == commits["other"]
    assert load_model(str(saved(tmp_path / "local"))).commit is None


TURNS = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<pad>\n{% endfor %}"


@pytest.mark.parametrize(
    ("generation", "config", "template", "expected"),
    [
        (None, None, None, [2]),
        ([5], None, None, [2, 5]),
        (None, [3, 6], None, [2, 3, 6]),
        (5, 6, TURNS, [0, 2, 5, 6]),
        (5, None, "{{ raise_exception('no talks here') }}", [2, 5]),
        (10**6, None, "{% for m in messages %}{{ m.content }}{% endfor %}", [2]),
    ],
)
def test_texts_end_where_any_file_of_the_model_ends_them(
    tmp_path: Path, generation: object, config: object, template: str | None, expected: list[int]
) -> None:
    folder = saved(tmp_path)
    tokenizer = tiny_world.tokenizer()
    tokenizer.chat_template = None if template is None else template.replace("<pad>", str(tokenizer.pad_token))
    tokenizer.save_pretrained(folder)
    for name, ends in (("config.json", config), ("generation_config.json", generation)):
        held = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**held, "eos_token_id": ends}))
    found = load_model(str(folder)).model.generation_config
    assert found is not None
    assert found.eos_token_id == expected


def test_faults_take_one_line(tmp_path: Path) -> None:
    folder = saved(tmp_path / "torn")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CcaError, match="the model cannot be loaded") as error:
        load_model(str(folder))
    assert "\n" not in str(error.value)
    with pytest.raises(CcaError, match="dtype: expected one of"):
        load_model(str(folder), dtype="int3")
    with pytest.raises(CcaError, match="no such folder"):
        load_model("./nowhere")
