"""Runs on every kind of task source: a file that is divided, a folder of templates, a function with its own judge."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

import tiny_run
import tiny_world
from cca.errors import CcaError
from cca.runs.config import load_config
from cca.runs.pipeline import run
from cca.runs.progress import NoProgress

pytestmark = pytest.mark.integration

FUNCTION = """
import json, re
from pathlib import Path


def load(seed):
    lines = Path(__file__).with_name("all.jsonl").read_text().splitlines()
    return {"problems": [json.loads(line) for line in lines], "judge": judge}


def judge(text, gold):
    return re.search(r"^(?=.*w1[0-5])w", text) is not None
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tiny_run.make(tmp_path)
    lines = [line for split in ("train", "test") for line in (tmp_path / f"{split}.jsonl").read_text().splitlines()]
    (tmp_path / "all.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "my_task.py").write_text(FUNCTION)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("my_task", None)


def ran(folder: Path, **changes: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """(report, manifest) of a run with these keys."""
    report = run(load_config(tiny_run.write_config(folder, **changes)), NoProgress())
    return report, json.loads((folder / "out" / "manifest.json").read_text())


def test_a_file_is_divided_and_the_division_is_on_record(folder: Path) -> None:
    source = {"source": str(folder / "all.jsonl"), "shares": [0.5, 0.25, 0.25]}
    report, manifest = ran(folder, task=source)
    sizes = manifest["task"]["problems"]
    assert sum(sizes.values()) == 18
    assert report["base"]["problems"] == sizes["test"]
    assert manifest["task"]["split"] == {
        "rule": "within-templates",
        "shares": [0.5, 0.25, 0.25],
        "unseen": 0,
        "seed": 0,
    }


def test_a_function_brings_problems_and_judge(folder: Path) -> None:
    wanted = {"task": {"source": "my_task:load", "shares": [0.5, 0.25, 0.25]}, "judge": "auto"}
    with pytest.raises(CcaError, match="allow_code"):
        ran(folder, **wanted)
    by_function, _ = ran(folder, **wanted, allow_code=True)
    (folder / "out").rename(folder / "by_function")
    by_name, _ = ran(folder, task={**wanted["task"], "source": str(folder / "all.jsonl")})
    assert by_function["base"]["accuracy"] == by_name["base"]["accuracy"]
    assert by_function["pivots"]["count"] == by_name["pivots"]["count"] > 0


def test_a_judge_of_another_kind_makes_a_folder_another_run(folder: Path) -> None:
    wanted = {"task": {"source": "my_task:load", "shares": [0.5, 0.25, 0.25]}, "judge": "auto", "allow_code": True}
    ran(folder, **wanted)
    sys.modules.pop("my_task")
    (folder / "my_task.py").write_text(FUNCTION.replace('"judge": judge', '"judge": "regex"'))
    with pytest.raises(CcaError, match="its judging changed since this run began"):
        ran(folder, **wanted)


THOUGHT = "{% for m in messages %}{{ m['content'] }}{% endfor %}{% if add_generation_prompt %} OPENING{% endif %}"


def test_a_thought_that_is_never_closed_is_no_answer(folder: Path) -> None:
    """The judge is told that completions begin inside a thought; the tiny model has no token that would end it."""
    (folder / "asked.jsonl").write_text((folder / "all.jsonl").read_text().replace('"prompt"', '"question"'))
    source = {"source": str(folder / "asked.jsonl"), "shares": [0.5, 0.25, 0.25], "prompt": "chat"}
    tokenizer = tiny_world.tokenizer()

    def chatting(opening: str) -> None:
        tokenizer.chat_template = THOUGHT.replace("OPENING", opening)
        tokenizer.save_pretrained(folder / "model")

    chatting("w1")
    assert ran(folder, task=source)[0]["pivots"]["count"] > 0
    chatting("<think>")
    cut = {"max_new_tokens": 5, "samples": 4, "chunk": 4, "batch_size": 8, "allow_cut_off": True}
    with pytest.raises(CcaError, match=r"nothing to pair: greedy accuracy is 0\.0%"):
        ran(folder, task=source, out=str(folder / "thinking"), traces=cut)
