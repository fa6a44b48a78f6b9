"""``cca patch``: every command on a tiny model, through the command line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel
from typer.testing import CliRunner

from cca.cli.patch import app
from cca.errors import CcaError
from cca.patches.patch import Patch
from cca.patches.patch_file import load_patch, save_patch
from cca.tinymath import BUNDLED_MODEL

UP = "model.layers.{}.mlp.up_proj.weight"
REPORT = {
    "base": {"accuracy": 0.52},
    "patched": {"accuracy": 0.78},
    "gain": {"points": 26.0, "interval": [21.5, 30.25], "p_value": 1e-9},
    "share": {"components": 0.01, "heads": 0.0, "neurons": 0.02, "parameters": 0.0046},
    "drift": {"kl": 3.2e-6},
    "retention": {"trivia": {"base": 0.9, "patched": 0.895, "interval": [-1.0, 0.5]}},
    "fingerprint": "0123456789abcdef",
}


def invoke(*arguments: object) -> str:
    """Standard output of a command that succeeds; its CcaError is raised."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None:
        raise result.exception
    assert result.exit_code == 0
    return result.output


def make_patch(model: PreTrainedModel, layer: int, rows: list[int], change: float) -> Patch:
    where, name = torch.tensor(rows), UP.format(layer)
    before = model.get_parameter(name).detach()[where]
    circuit = [f"L{layer}.neuron{row}" for row in rows]
    return Patch.from_edits(
        model, [(name, 0, where, before, before * (1 + change))], "some/model", "main", circuit
    )


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    config = LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2
    )
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.fixture
def folder(model: PreTrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: the model in ``base``, the patches ``a`` (layer 0) and ``b`` (layer 1), a report."""
    model.save_pretrained(tmp_path / "base", max_shard_size="5KB")
    save_patch(tmp_path / "a", make_patch(model, 0, [3, 7], 0.25))
    save_patch(tmp_path / "b", make_patch(model, 1, [3], -0.5))
    (tmp_path / "report.json").write_text(json.dumps(REPORT))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def loaded(path: str) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(path)


@pytest.mark.usefixtures("folder")
def test_show_without_and_with_a_report() -> None:
    plain = invoke("show", "a")
    assert "some/model at revision main" in plain
    assert "32 weights in 1 tensors, float32" in plain
    assert "2 neuron" in plain
    assert "up_proj" in plain
    assert "gain" not in plain
    told = invoke("show", "a", "--report", "report.json")
    for figure in (
        "+26.0 points [+21.5, +30.2], 52.0% to 78.0%, p = 1e-09",
        "0.460% of parameters, 2.000% of neurons, 0.000% of heads",
        "3.2e-06 nats a token",
        "90.0% to 89.5% [-1.0, +0.5]",
        "bootstrap",
    ):
        assert figure in told


@pytest.mark.usefixtures("folder")
def test_apply_verify_and_revert() -> None:
    patch = load_patch("a")
    assert invoke("verify", "base", "a") == "base: base\n"
    assert "1 shards with edits" in invoke("apply", "base", "a", "--out", "patched")
    assert invoke("verify", "patched", "a") == "patched: patched\n"
    patch.check(loaded("patched"), "after")
    invoke("revert", "patched", "a", "--out", "reverted")
    patch.check(loaded("reverted"), "before")


@pytest.mark.usefixtures("folder")
def test_model_and_patch_in_either_order() -> None:
    assert invoke("verify", "a", "base") == "base: base\n"
    invoke("merge", "a", "b", "base", "--out", "merged")
    for path in "ab":
        load_patch(path).check(loaded("merged"), "after")
    invoke("revert", "b", "merged", "--in-place")
    invoke("apply", "b", "merged", "--in-place")
    assert invoke("verify", "merged", "b") == "merged: patched\n"
    with pytest.raises(CcaError, match=r"absent\.safetensors: no such patch file"):
        invoke("verify", "absent.safetensors", "base")


@pytest.mark.usefixtures("folder")
def test_in_place() -> None:
    patch = load_patch("a")
    assert invoke("apply", "base", "a", "--in-place") == "base: patched\n"
    patch.check(loaded("base"), "after")
    assert invoke("apply", "base", "a", "--in-place") == "base: patched already; nothing was written\n"
    assert invoke("revert", "base", "a", "--in-place") == "base: reverted\n"
    patch.check(loaded("base"), "before")


@pytest.mark.usefixtures("folder")
def test_merge_of_two_patches_and_diff_back() -> None:
    invoke("merge", "base", "a", "b", "--out", "merged", "--link")
    for path in "ab":
        load_patch(path).check(loaded("merged"), "after")
    invoke("diff", "base", "merged", "--out", "both", "--base-model", "some/model", "--revision", "main")
    invoke("compose", "a", "b", "--out", "composed")
    assert load_patch("both").edits == load_patch("composed").edits
    assert load_patch("both").base == "some/model at revision main"
    assert "derived by" in invoke("show", "both")


@pytest.mark.usefixtures("folder")
def test_collisions_need_allow_sum() -> None:
    with pytest.raises(CcaError, match="both patches edit row 3"):
        invoke("compose", "a", "a", "--out", "twice")
    invoke("compose", "a", "a", "--out", "twice", "--allow-sum")
    invoke("scale", "a", "2", "--out", "double")
    assert load_patch("twice").edits == load_patch("double").edits


@pytest.mark.usefixtures("folder")
def test_subset() -> None:
    invoke("compose", "a", "b", "--out", "both")
    invoke("subset", "both", "--layers", "1-1", "--kinds", "up_proj", "--out", "one")
    assert load_patch("one").edits == load_patch("b").edits
    with pytest.raises(CcaError, match="--layers: expected numbers and ranges"):
        invoke("subset", "both", "--layers", "1-", "--out", "one")


@pytest.mark.usefixtures("folder")
def test_export_to_adapters_and_to_a_model() -> None:
    patch = load_patch("a")
    assert "lora adapter, rank 8" in invoke(
        "export", "a", "--to", "lora", "--out", "lora", "--model", "base", "--pad-ranks"
    )
    assert "shira adapter" in invoke("export", "a", "--to", "shira", "--out", "shira", "--model", "base")
    invoke("export", "a", "--to", "merged", "--out", "merged", "--model", "base")
    for adapter in ("lora", "shira"):
        patch.check(PeftModel.from_pretrained(loaded("base"), adapter).merge_and_unload(), "after")
    patch.check(loaded("merged"), "after")
    with pytest.raises(CcaError, match="SHiRA has no ranks to pad"):
        invoke("export", "a", "--to", "shira", "--out", "x", "--model", "base", "--pad-ranks")


def test_the_bundled_model_goes_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = loaded(str(BUNDLED_MODEL))
    patch = replace(make_patch(model, 1, list(range(30)), 0.25), base_model="tinymath", base_revision=None)
    save_patch(tmp_path / "a", patch)
    assert (tmp_path / "a").stat().st_size < 0.15 * (BUNDLED_MODEL / "model.safetensors").stat().st_size
    assert invoke("verify", "tinymath", "a") == "tinymath: base\n"
    invoke("merge", "tinymath", "a", "--out", "merged")
    patch.check(loaded("merged"), "after")
    invoke("export", "a", "--to", "lora", "--out", "lora", "--pad-ranks")
    patch.check(PeftModel.from_pretrained(model, "lora").merge_and_unload(), "after")


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("given", [[], ["--in-place", "--out", "x"]])
def test_where_to_write_must_be_said_once(given: list[str]) -> None:
    with pytest.raises(CcaError, match="expected either --out FOLDER or --in-place"):
        invoke("apply", "base", "a", *given)


def test_bad_files_are_refused_in_one_line(folder: Path) -> None:
    (folder / "cut").write_bytes((folder / "a").read_bytes()[:-3])
    for command in (
        ["show", "cut"],
        ["apply", "base", "cut", "--out", "x"],
        ["scale", "cut", "1", "--out", "x"],
    ):
        with pytest.raises(CcaError, match="unreadable or truncated"):
            invoke(*command)
    with pytest.raises(CcaError, match=r"expected the report\.json of a run"):
        invoke("show", "a", "--report", "base/config.json")
    assert not (folder / "x").exists()
