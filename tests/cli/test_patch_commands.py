"""``cca patch``: every command on a tiny model, through the command line."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from toy import REPORT
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel
from typer.testing import CliRunner

from cca.cli.patch import app
from cca.errors import CcaError
from cca.patches.patch import Patch
from cca.patches.patch_file import load_patch, save_patch
from cca.tinymath import BUNDLED_MODEL

UP = "model.layers.{}.mlp.up_proj.weight"


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
    return Patch.from_edits(model, [(name, 0, where, before, before * (1 + change))], "some/model", "main", circuit)


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
    Path("report.json").rename("elsewhere.json")
    plain = invoke("show", "a")
    for fact in ("some/model at revision main", "32 weights in 1 tensors, float32", "2 neuron", "up_proj"):
        assert fact in plain
    assert "gain" not in plain
    claiming = invoke("show", "a", "--report", "elsewhere.json")
    Path("elsewhere.json").rename("report.json")
    assert invoke("show", "a") == claiming
    for figure in (
        "+25.0 points [+20.0, +30.0], 50.0% to 75.0%, p = 0.0004",
        "0.460% of parameters, 2.000% of neurons, 0.000% of heads",
        "3e-06 nats a token",
        "90.0% to 89.5% [-1.0, +0.5]",
        "95 % intervals",
    ):
        assert figure in claiming


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
    with pytest.raises(CcaError, match="--layers: expected numbers and rising ranges"):
        invoke("subset", "both", "--layers", "1-", "--out", "one")


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("layers", ["5-1", "1-99999999999", "9" * 5000, "a", "-", ",", "1,,2", "١"])
def test_layers_that_name_no_range_are_refused(layers: str) -> None:
    with pytest.raises(CcaError, match="--layers: expected numbers and rising ranges") as refusal:
        invoke("subset", "a", "--layers", layers, "--out", "new")
    assert len(str(refusal.value)) < 150
    assert not Path("new").exists()


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    "command",
    [("scale", "a", "0.5"), ("subset", "a", "--layers", "0"), ("compose", "a", "b"), ("diff", "base", "base")],
)
def test_no_command_overwrites_a_file_unasked(command: tuple[str, ...]) -> None:
    Path("mine").write_text("precious")
    with pytest.raises(CcaError, match=r"mine: expected a new file, found one; .* --force"):
        invoke(*command, "--out", "mine")
    assert Path("mine").read_text() == "precious"
    invoke(*command, "--out", "mine", "--force")
    load_patch("mine")


def test_showing_a_patch_needs_no_torch(folder: Path) -> None:
    code = (
        "import sys; from cca.cli.patch import app; app(['show', 'a'], standalone_mode=False); "
        "assert not {'torch', 'transformers'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    assert "25.0 points" in done.stdout


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.[/red].weight",
        "model.layers.0.mlp.[red]up_proj[/x].weight",
        "model.layers.99999999999999999999.mlp.up_proj.weight",
        "model.layers." + "9" * 400 + ".mlp.up_proj.weight",
        "model.layers.\u0661.mlp.up_proj.weight",
    ],
)
def test_a_name_that_is_no_name_of_ours_is_shown_as_it_is(name: str) -> None:
    patch = load_patch("a")
    (edit,) = patch.edits
    renamed = replace(
        patch,
        edits=(replace(edit, parameter=name),),
        base_hashes={name: patch.base_hashes[edit.parameter]},
        base_shapes={name: patch.base_shapes[edit.parameter]},
        circuit=["[/red]", "L1.q" + "9" * 18],
        made_by={"derived": ["[/b]", {"x": 1}]},
    )
    save_patch(Path("odd"), renamed)
    assert "rows edited" in invoke("show", "odd")
    with pytest.raises(CcaError, match="no layer 5"):
        invoke("subset", "odd", "--layers", "5", "--out", "x")


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_no_numbers_are_shown_and_not_written(value: float) -> None:
    patch = load_patch("a")
    (edit,) = patch.edits
    after = edit.after.clone()
    after[0, 3] = value
    save_patch(Path("broken"), replace(patch, edits=(replace(edit, after=after),)))
    assert "1 weights to be written are infinite or NaN" in invoke("show", "broken")
    for target in (("--out", "merged"), ("--in-place",)):
        with pytest.raises(CcaError, match="would write weights that are infinite or NaN"):
            invoke("merge", "base", "broken", *target)
    assert not Path("merged").exists()
    assert invoke("verify", "base", "a") == "base: base\n"


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
    for command in (["show", "cut"], ["apply", "base", "cut", "--out", "x"], ["scale", "cut", "1", "--out", "x"]):
        with pytest.raises(CcaError, match="unreadable or truncated"):
            invoke(*command)
    with pytest.raises(CcaError, match=r"expected the report\.json of a run"):
        invoke("show", "a", "--report", "base/config.json")
    assert not (folder / "x").exists()
