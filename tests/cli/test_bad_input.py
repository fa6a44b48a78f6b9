"""Every kind of bad input ends with one clear line, exit code 2, and nothing half-written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import tiny_world
from cca.cli.main import main
from cca.models.anatomy.weight_rows import get_rows
from cca.patches.patch import Patch
from cca.patches.patch_file import save_patch

Command = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_world.model(dtype=torch.float32).save_pretrained(folder)
    tiny_world.tokenizer().save_pretrained(folder)
    return folder


def rows(count: int, answer: str = "1") -> list[dict[str, str]]:
    return [{"id": p.id, "prompt": p.prompt, "answer": answer} for p in tiny_world.problems(count)]


def write(path: Path, rows: list[dict[str, str]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def config(tmp_path: Path, model_folder: Path) -> dict[str, Any]:
    task = {split: write(tmp_path / f"{split}.jsonl", rows(4)) for split in ("train", "validation", "test")}
    return {
        "model": str(model_folder), "task": task, "out": str(tmp_path / "run"),
        "traces": {"max_new_tokens": 4, "samples": 2, "allow_cut_off": True},
    }  # fmt: skip


@pytest.fixture
def cca(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    def command(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["cca", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        return int(stop.value.code or 0), capsys.readouterr().err.strip()

    return command


def refused(cca: Command, config: dict[str, Any], tmp_path: Path, *parts: str) -> None:
    """The run is refused in one line that holds every part."""
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(config))
    code, error = cca("run", str(path))
    assert code == 2
    assert "\n" not in error, error
    for part in parts:
        assert part in error


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"traces": {"sample": 3}}, ["'traces.sample'", "'samples'"]),
        ({"retentoin": []}, ["'retentoin'", "'retention'"]),
        ({"traces": {"samples": 0}}, ["traces.samples", "greater than or equal to 1"]),
        ({"preset": "papr"}, ["preset", "paper"]),
        ({"task": "gsm9k"}, ["gsm9k"]),
        ({"circuit": {"size": "lots"}}, ["size", "lots"]),
        ({"anatomy": {"atention": "x"}}, ["'atention'", "'attention'"]),
        ({"model": "./none"}, ["no such folder"]),
    ],
)
def test_bad_keys_and_values(
    cca: Command, config: dict[str, Any], tmp_path: Path, change: dict[str, Any], parts: list[str]
) -> None:
    refused(cca, {**config, **change}, tmp_path, *parts)
    assert not (tmp_path / "run").exists()


def test_problem_files(cca: Command, config: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "broken.jsonl").write_text(json.dumps(rows(1)[0]) + '\n{"id": "x", "prompt": \n')
    (tmp_path / "half.jsonl").write_text(
        '{"prompt": "w4 w5", "answer": "1"}\n{"prompt": "w4 \\ud83d w5", "answer": "1"}\n'
    )
    write(tmp_path / "twice.jsonl", rows(2) + rows(1))
    write(tmp_path / "empty.jsonl", [])
    for split, name, part in (
        ("train", "nowhere.jsonl", "no such file"),
        ("train", "broken.jsonl", "broken.jsonl, line 2"),
        ("train", "half.jsonl", "half.jsonl, line 2: expected a JSON object, got half of a surrogate pair"),
        ("test", "twice.jsonl", "twice.jsonl, line 3: problem id 'p0'"),
        ("validation", "empty.jsonl", "at least one problem"),
    ):
        refused(cca, {**config, "task": {**config["task"], split: str(tmp_path / name)}}, tmp_path, name, part)


def test_gold_answer_the_judge_cannot_read(cca: Command, config: dict[str, Any], tmp_path: Path) -> None:
    words = write(tmp_path / "words.jsonl", rows(3, "many"))
    task = {**config["task"], "train": words}
    refused(cca, {**config, "task": task, "judge": "number"}, tmp_path, "train", "p0", "many")


def test_a_model_without_a_tokenizer(cca: Command, config: dict[str, Any], tmp_path: Path, model_folder: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(model_folder, bare)
    for file in bare.glob("*token*"):
        file.unlink()
    refused(cca, {**config, "model": str(bare)}, tmp_path, "tokenizer")


def test_attention_that_gates_do_not_reach(
    cca: Command, config: dict[str, Any], tmp_path: Path, model_folder: Path
) -> None:
    dead = tiny_world.model(dtype=torch.float32)
    dead.get_submodule("model.layers.1.self_attn.o_proj").weight.data.zero_()  # type: ignore[operator, union-attr]
    shutil.copytree(model_folder, tmp_path / "dead")
    dead.save_pretrained(tmp_path / "dead")
    refused(cca, {**config, "model": str(tmp_path / "dead")}, tmp_path, "layers.1", "gates of q", "set `anatomy`")


def test_declared_anatomies(cca: Command, config: dict[str, Any], tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.yaml"
    elsewhere.write_text("attention: elsewhere")
    refused(cca, {**config, "anatomy": str(elsewhere)}, tmp_path, "an attention module", "set `attention`")
    refused(cca, {**config, "anatomy": {"attention": "self_attn"}}, tmp_path, "nothing to pair")


def test_nothing_is_ever_right(cca: Command, config: dict[str, Any], tmp_path: Path) -> None:
    refused(cca, config, tmp_path, "nothing to pair", "greedy accuracy is 0.0%", "easier task")


def test_everything_is_right(cca: Command, config: dict[str, Any], tmp_path: Path) -> None:
    problems = rows(4, answer="w")  # what every word of the tiny vocabulary begins with
    task = {**config["task"], "train": write(tmp_path / "easy.jsonl", problems)}
    judged = {**config, "task": task, "judge": {"name": "regex", "pattern": "^w"}}
    refused(cca, judged, tmp_path, "nothing to pair", "accuracy is 100.0%", "harder task")


def test_folder_of_another_run(cca: Command, config: dict[str, Any], tmp_path: Path) -> None:
    refused(cca, config, tmp_path, "nothing to pair")  # leaves a run folder behind
    kept = (tmp_path / "run" / "traces.jsonl").read_bytes()
    refused(cca, {**config, "seed": 7, "traces": {"max_new_tokens": 5}}, tmp_path, "seed", "traces.max_new_tokens")
    assert (tmp_path / "run" / "traces.jsonl").read_bytes() == kept
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("years of work")
    refused(cca, {**config, "out": str(foreign)}, tmp_path, "thesis.tex")


def test_folder_in_use(cca: Command, config: dict[str, Any], tmp_path: Path) -> None:
    from cca.runs.folder.run_folder import RunFolder

    with RunFolder(tmp_path / "run"):
        refused(cca, config, tmp_path, "in use by process")


def test_patch_on_another_base(cca: Command, tmp_path: Path) -> None:
    model = tiny_world.model(dtype=torch.float32)
    name = "model.layers.0.mlp.up_proj.weight"
    before = get_rows(model.get_parameter(name).detach(), 0, torch.tensor([1]))
    patch = Patch.from_edits(model, [(name, 0, torch.tensor([1]), before, before + 1)], "base")
    save_patch(tmp_path / "patch.safetensors", patch)
    with torch.no_grad():
        model.get_parameter(name)[1] += 1e-3
    model.save_pretrained(tmp_path / "other")
    code, error = cca(
        "patch", "apply", str(tmp_path / "other"), str(tmp_path / "patch.safetensors"), "--out", str(tmp_path / "out")
    )
    assert code == 2
    assert name in error
    assert not (tmp_path / "out").exists()
