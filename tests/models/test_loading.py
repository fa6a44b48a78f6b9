from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
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
