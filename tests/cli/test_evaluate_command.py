"""``cca evaluate`` without a run folder: a patch, another model, several seeds, on small local tasks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from lm_eval_tasks import model_and_patch, words
from torch import Generator
from typer.testing import CliRunner

import tiny_world
from cca.cli.evaluate import Asked, evaluate, numbers
from cca.cli.main import app
from cca.errors import CcaError
from cca.files import read_rows
from cca.patches.patch_file import save_patch
from cca.runs.progress import NoProgress

JUDGE = 'judge={name: regex, pattern: "w[0-9]*[02468]"}'
"""Reads the last even word, so that a model without a clue gets answers of every verdict."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("evaluate")
    model, patch = model_and_patch(place / "base")
    save_patch(place / "patch.safetensors", patch)
    with patch.applied(model):
        model.save_pretrained(place / "merged")
    tiny_world.tokenizer().save_pretrained(place / "merged")
    generator = Generator().manual_seed(1)
    rows = [
        {"id": f"{n}", "template": f"t{n % 5}", "prompt": words(generator, 6), "answer": f"w{2 * (n % 32)}"}
        for n in range(60)
    ]
    (place / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return place


def asked(place: Path, **options: Any) -> dict[str, Any]:
    given = {"task": str(place / "problems.jsonl"), "model": str(place / "base"), "out": place / "out" / "r.json"}
    wanted = Asked(**{**given, "max_new_tokens": 8, "overrides": (JUDGE,), **options})
    row = evaluate(wanted, NoProgress())
    assert json.loads(wanted.out.read_text()) == row
    return row


def test_a_patch_and_its_merged_checkpoint_get_the_same_answers(place: Path) -> None:
    patched = asked(place, patch=place / "patch.safetensors")
    _, answers = read_rows(place / "out" / "r.answers.jsonl", "cca.answers", 1)
    merged = asked(place, against=str(place / "merged"))
    _, theirs = read_rows(place / "out" / "r.answers.jsonl", "cca.answers", 1)
    assert answers == theirs
    assert len(answers) == 120
    texts = {side: [row["text"] for row in answers if row["side"] == side] for side in ("base", "patched")}
    assert texts["base"] != texts["patched"]
    for key in ("base", "patched", "gain", "templates"):
        assert patched[key] == merged[key]
    assert patched["base"]["problems"] == 60
    assert patched["models"]["patched"]["patch_digest"]
    assert merged["models"]["patched"]["name"] == str(place / "merged")


def test_a_model_against_itself_gains_nothing(place: Path) -> None:
    row = asked(place, against=str(place / "base"))
    assert (row["gain"]["points"], row["gain"]["p_value"], row["gain"]["interval"]) == (
        0.0,
        1.0,
        [-5.0, 5.0],
    )  # 3 of 60


def test_several_seeds_of_a_task_that_is_split(place: Path) -> None:
    (place / "task.yaml").write_text(f"source: {place / 'problems.jsonl'}\n")
    row = asked(place, task=str(place / "task.yaml"), seeds=(0, 1, 2))
    assert row["by_seed"]["each"][0]["problems"] == 24  # 40 % of 60
    assert 24 < row["base"]["problems"] <= 60
    assert row["split"] == "test"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": None}, "expected --model"),
        ({"task": None}, "expected --task, --lm-eval or both"),
        ({"patch": Path("p"), "against": "m"}, "got both"),
        ({"seeds": (0, 1)}, "all of a problem file"),
        ({"task": "tinymath", "split": "dev"}, "expected train, validation, test"),
        ({"task": "nothing"}, "task: expected tinymath"),
        ({"patch": Path("missing.safetensors")}, "no such patch file"),
        ({"against": "./missing"}, "no such folder"),
        ({"overrides": ("judge=nobody",)}, "judge: expected"),
        ({"overrides": ("judge=number",)}, "test, problem '0'"),
    ],
)
def test_what_is_refused(place: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(CcaError, match=message):
        asked(place, **options)


@pytest.mark.parametrize("text", ["a", "-1", "0;1", "١"])
def test_seeds_are_whole_numbers(text: str) -> None:
    assert numbers("--seeds", "2, 0,2") == (2, 0)
    with pytest.raises(CcaError, match="--seeds: expected whole numbers"):
        numbers("--seeds", text)


def test_the_command_prints_the_table_and_what_it_leaves_out(place: Path, tmp_path: Path) -> None:
    options = ["--model", str(place / "base"), "--patch", str(place / "patch.safetensors"), "--max-new-tokens", "8"]
    given = ["--task", str(place / "problems.jsonl"), "--out", str(tmp_path / "r.json"), "--set", JUDGE]
    result = CliRunner().invoke(app, ["evaluate", *options, *given], catch_exceptions=False)
    assert result.exit_code == 0
    assert "all test problems" in result.output
    assert "of 60 problems right" in result.output
    assert (tmp_path / "r.json").is_file()


def test_a_run_folder_and_a_model_together_are_refused(place: Path) -> None:
    with pytest.raises(CcaError, match="a run has its own model"):
        CliRunner().invoke(app, ["evaluate", str(place), "--model", "m"], catch_exceptions=False)
