"""``cca task list`` and ``cca task preview``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from chat_tokenizer import chat_tokenizer
from transformers import LlamaConfig
from typer.testing import CliRunner

from cca.cli.task import app
from cca.errors import CcaError
from cca.problems.datasets import NAMED

RUN = """
model: {model}
out: nowhere
task: {{source: {problems}, prompt: chat, system: Be brief}}
judge: number
"""


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    path = tmp_path / "sums.jsonl"
    path.write_text(
        "".join(json.dumps({"question": f"What is 1 + 1 ?{' ' * n}", "answer": "2"}) + "\n" for n in range(20))
    )
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model folder without weights: a preview needs none."""
    chat_tokenizer().save_pretrained(tmp_path / "model")
    LlamaConfig(vocab_size=16).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def shown(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_list_names_every_task_that_run_yaml_can_name() -> None:
    output = shown("list")
    assert all(f"  {name}: " in output for name in [*NAMED, "tinymath"])
    assert "few-shot-8" in output
    assert "tool-call" in output


def test_preview_shows_the_text_and_token_ids_that_the_model_gets(problems: Path, model: Path, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(RUN.format(model=model, problems=problems))
    lines = shown("preview", str(tmp_path / "run.yaml")).splitlines()
    tokenizer = chat_tokenizer()
    messages = [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "What is 1 + 1 ?"}]
    token_ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert "prompt: chat; stops: none; judge: number" in lines
    assert lines[-1] == " ".join(map(str, token_ids))
    assert lines[-3] == tokenizer.decode(token_ids)


def test_preview_of_a_file_without_a_model_shows_the_text(problems: Path) -> None:
    output = shown("preview", str(problems), "--set", "task.prompt=zero-shot", "--split", "test", "--count", "3")
    assert output.count("--- test, problem") == 3
    assert "Q: What is 1 + 1 ?" in output
    assert "train 10, validation 2, test 8 problems" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gsm-symbollic"], "did you mean 'gsm-symbolic'"),
        (["FILE", "--set", "task.prompt=chat"], "name the model"),
        (["FILE", "--split", "dev"], "expected train, validation, test"),
        (["FILE", "--set", "task.promt=chat"], "did you mean 'prompt'"),
        (["missing.yaml"], "no such file"),
    ],
)
def test_previews_that_are_refused(problems: Path, arguments: list[str], message: str) -> None:
    given = [argument.replace("FILE", str(problems)) for argument in arguments]
    with pytest.raises(CcaError, match=message):
        CliRunner().invoke(app, ["preview", *given], catch_exceptions=False)
