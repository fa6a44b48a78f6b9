"""Declaring an architecture: what the documentation shows, what loading refuses, and with which words."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn
from transformers import OpenAIGPTConfig, OpenAIGPTLMHeadModel, PreTrainedModel
from zoo import OLD, TINY, energise

from cca.errors import CcaError
from cca.models.anatomy.anatomy import anatomy_of, check_anatomy
from cca.models.anatomy.components import Component
from cca.models.anatomy.declarations import Declaration, declaration_for, read_declaration

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "your-model.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def llama() -> PreTrainedModel:
    return TINY["llama"]()


@pytest.fixture(scope="module")
def gpt1() -> PreTrainedModel:
    return energise(OpenAIGPTLMHeadModel(OpenAIGPTConfig(**OLD)), seed=0)


def shown(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


def test_the_page_shows_the_message_loading_gives(gpt1):
    with pytest.raises(CcaError) as caught:
        anatomy_of(gpt1)
    assert [str(caught.value)] == [text.strip() for text in shown("text")]


def test_the_pages_declarations_work(gpt1, tmp_path):
    in_a_file, in_the_config = shown("yaml")
    (tmp_path / "gpt1.yaml").write_text(in_a_file, encoding="utf-8")
    assert yaml.safe_load(in_the_config) == {"anatomy": yaml.safe_load(in_a_file)}
    from_yaml = anatomy_of(gpt1, tmp_path / "gpt1.yaml")
    names: dict = {"model": gpt1}
    exec(shown("python")[0], names)
    assert names["anatomy"].layers == from_yaml.layers
    weight, bias = from_yaml.rows([Component(0, "k", 1)])
    assert weight.indices.tolist() == bias.indices.tolist() == list(range(40, 48))
    assert weight.axis == 1  # Conv1D: an output feature is a column


def test_the_page_lists_every_field():
    table = PAGE[PAGE.index("| field |") :]
    assert set(re.findall(r"`([a-z_]+)`", re.sub(r"\|[^|]*\|$", "", table, flags=re.MULTILINE))) == {
        field.name for field in fields(Declaration)
    }


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"atention": "attn"}, "anatomy declaration: unknown field 'atention'; did you mean 'attention'?"),
        ({"qkv_layout": "rows"}, "expected 'qkv_layout' to be one of blocks, grouped, got 'rows'"),
        ({"q": ["q_proj", 3]}, "expected 'q' to be a module's name or a list of names"),
        ({"heads": 0}, "expected 'heads' to be a whole number of at least 1, got 0"),
        ({"heads": True}, "expected 'heads' to be a whole number of at least 1, got True"),
        ({"q_gated": "yes"}, "expected 'q_gated' to be true or false, got 'yes'"),
        ({"layers": "transformer.blocks"}, "set `layers`"),
        ({"attention": "mixer"}, "found self_attn, mlp, input_layernorm, post_attention_layernorm; set `attention`"),
        ({"k": "key"}, "expected a module key, found q_proj, k_proj, v_proj, o_proj; set `k`"),
        ({"head_dim": 16}, "expected 4 heads of 16 rows in q"),
        ({"heads": 2}, "expected 2 heads of 8 rows in q"),
        ({"o": "q_norm"}, "set `o`"),
        ({"up": "gate_proj"}, "set `others`"),
        ({"gate": "none"}, "expected to know what mlp.gate_proj.weight (48, 32) is; set `others`"),
        ({"gate": "up_proj"}, "set `others`"),
        ({"mlp": "self_attn"}, "set `mlp`"),
    ],
)
def test_refused_declarations(llama, declared, message):
    with pytest.raises(CcaError) as caught:
        anatomy_of(llama, declared)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_fused_projections_of_unequal_heads_name_the_field():
    with pytest.raises(CcaError, match="set `kv_heads`"):
        anatomy_of(TINY["phi3"](), {"kv_heads": 4})
    with pytest.raises(CcaError, match="set `qkv_blocks`"):
        anatomy_of(TINY["codegen"](), {"qkv_blocks": 3})


@pytest.mark.parametrize("text", ["- a", "a: [", "\x00", "!!python/object:os.system {}"])
def test_files_that_are_no_declaration(tmp_path, text):
    (tmp_path / "x.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(CcaError, match=r"x\.yaml: expected a"):
        read_declaration(tmp_path / "x.yaml")


def test_a_missing_file(llama, tmp_path):
    with pytest.raises(CcaError, match=r"none\.yaml"):
        anatomy_of(llama, str(tmp_path / "none.yaml"))


def test_what_is_given_goes_over_the_table_and_the_table_over_the_defaults():
    assert declaration_for("phi3").qkv_layout == "blocks"
    assert declaration_for("phi3", {"qkv_layout": "grouped"}).gate_up_layout == "halves"
    assert declaration_for("phi3", Declaration()).qkv_layout is None
    assert Declaration(attention="core").attention == ("core",)  # type: ignore[arg-type]


def test_an_anatomy_that_does_not_fit_is_refused(llama):
    anatomy = anatomy_of(llama)
    layer = anatomy.layers[0]
    q, k = layer.pattern("q"), layer.pattern("k")
    spoiled = {
        r"expected rows below 32, got 39": replace(q, start=8),
        r"some rows already belong": replace(q, step=4),
        r"expected \(16, 32\), got \(32, 32\)": None,
        r"expected a weight of this layer, got the embedding": replace(q, weight="lm_head.weight"),
    }
    for message, pattern in spoiled.items():
        shapes = dict(anatomy.shapes) | {"lm_head.weight": (64, 32)}
        if pattern is None:
            pattern, shapes[q.weight] = q, anatomy.shapes[k.weight]
        wrong = replace(anatomy, layers=(replace(layer, patterns=(pattern,)),), shapes=shapes)
        with pytest.raises(CcaError, match=message + ".*set `q`"):
            check_anatomy(llama, wrong)


def test_a_second_mlp_does_not_go_unnoticed(llama):
    model = TINY["llama"]()
    model.model.layers[1].adapter = nn.Linear(32, 32)
    with pytest.raises(CcaError, match=r"layers\.1: expected to know what adapter\.weight \(32, 32\) is"):
        anatomy_of(model)
    assert anatomy_of(model, {"others": "adapter"}).size == anatomy_of(llama).size


def test_no_memory_is_needed_to_read_an_anatomy():
    """On the meta device: a model of any size is read from its shapes alone."""
    config = TINY["mixtral"]().config
    with torch.device("meta"):
        model = type(TINY["mixtral"]())(config)
    assert anatomy_of(model).size == anatomy_of(TINY["mixtral"]()).size
