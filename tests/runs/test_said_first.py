"""What a run knows at the start it says at the start, before anything is generated."""

from __future__ import annotations

import json
import re
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny_run
import tiny_world
from cca.errors import CcaError
from cca.pivots.traces import Grader, Trace, opposite
from cca.problems.judges.judge import Verdict
from cca.runs import open as opening
from cca.runs.config import load_config, make_config
from cca.runs.folder.run_folder import RunFolder
from cca.runs.open import open_run
from cca.runs.pipeline import run, run_stage
from cca.runs.progress import NoProgress
from cca.runs.said_first import first_day, note_on_begin
from cca.runs.stages.traces_and_pivots import check_cut_off


def changed(path: Path, **values: Any) -> None:
    """Change the last row of a problem file."""
    *rows, last = path.read_text().splitlines()
    path.write_text("\n".join([*rows, json.dumps({**json.loads(last), **values})]) + "\n")


@pytest.mark.parametrize("name", ["train", "test", "other"])
def test_a_prompt_that_is_too_long_is_refused_before_anything_is_made(name: str, tmp_path: Path) -> None:
    config = tiny_run.make(tmp_path)
    changed(tmp_path / f"{name}.jsonl", prompt=" ".join(["w5"] * 5000))
    with pytest.raises(CcaError, match=rf"{name}, problem '{name}-p\d+': its prompt has 5000 tokens"):
        run_stage(load_config(config), "traces", NoProgress())
    assert not (tmp_path / "out" / "traces.jsonl").exists()


def test_layers_without_attention_are_refused_before_anything_is_made(tmp_path: Path) -> None:
    config = tiny_run.make(tmp_path)
    tiny_world.model("lfm2", torch.float32).save_pretrained(tmp_path / "model")
    with pytest.raises(CcaError, match="lfm2: layer 0 has no attention"):
        run(load_config(config), NoProgress())
    assert not (tmp_path / "out" / "traces.jsonl").exists()
    run_stage(load_config(config), "traces", NoProgress())


def test_notes_of_the_start_are_in_report_and_page(tmp_path: Path) -> None:
    config = tiny_run.make(tmp_path, retention=[], circuit={"size": 6}, amplify={"steps": 1, "precondition": "none"})
    first = json.loads((tmp_path / "train.jsonl").read_text().splitlines()[0])
    changed(tmp_path / "test.jsonl", prompt=first["prompt"])
    report = run(load_config(config), NoProgress())
    notes = " ".join(report["notes"])
    for part in ("1 of 6 test prompts are in train too", "no retention sets", "is now called amplify.whitening"):
        assert part in notes
    assert "test prompts are in train too" in (tmp_path / "out" / "report.html").read_text()
    assert {step["validation"]["drift"] for step in report["amplify"]["history"]} == {None}
    assert {step["validation"]["in_budget"] for step in report["amplify"]["history"]} == {None}
    assert report["drift"]["kl"] is None
    assert report["base"]["cut_off"] == report["patched"]["cut_off"] == 0


def test_prompts_without_the_beginning_that_the_tokenizer_names_are_noted_with_figures(tmp_path: Path) -> None:
    with open_run(load_config(tiny_run.make(tmp_path)), NoProgress()) as opened:
        model, grader, task = opened.model, opened.grader, opened.task
        assert note_on_begin(model, grader, task.train) is None
        tokenizer = tiny_world.tokenizer()
        tokenizer.bos_token = "w1"
        named = Grader(type(grader.codec)(tokenizer), grader.judge)
        note = note_on_begin(model, named, task.train)
    assert note is not None
    assert note.startswith("prompts do not begin with the tokenizer's w1: ")
    without, within = map(float, re.findall(r"(\d+\.\d+) ", note))
    assert 0 < without < 10
    assert 0 < within < 10
    assert without != within


def test_a_resumed_run_keeps_the_notes_of_its_start_and_measures_nothing_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(tiny_run.make(tmp_path))
    monkeypatch.setattr(opening, "note_on_begin", lambda *_: "measured")
    with open_run(config, NoProgress()) as opened:
        assert opened.folder.manifest()["notes"] == ["measured"]
    monkeypatch.setattr(opening, "note_on_begin", None)
    with open_run(config, NoProgress()) as opened:
        assert opened.folder.manifest()["notes"] == ["measured"]


def test_the_day_of_a_run_is_the_one_it_began_with(tmp_path: Path) -> None:
    config = make_config({"model": "m", "task": "tinymath", "out": str(tmp_path / "a")})
    with RunFolder(tmp_path / "a") as folder:
        assert first_day(folder) == date.today()
        folder.begin(config, {}, task={"prompt": {"date": "2024-02-03"}})
        assert first_day(folder) == date(2024, 2, 3)
    with RunFolder(tmp_path / "b") as fork:
        assert first_day(fork, tmp_path / "a") == date(2024, 2, 3)


def test_a_trace_cut_off_before_its_answer_is_nobodys_opposite() -> None:
    def trace(sample: int, verdict: Verdict, finished: bool) -> Trace:
        return Trace("p", sample, 0.0, (1,), "w1", None, verdict, finished)

    right, cut = trace(0, Verdict.RIGHT, True), trace(1, Verdict.UNREADABLE, False)
    unreadable = trace(1, Verdict.UNREADABLE, True)
    assert opposite([right, cut]) is None
    assert opposite([right, unreadable]) is unreadable
    assert opposite([cut, trace(1, Verdict.RIGHT, True)]) is None
    check_cut_off([[cut], [right], [right], [right]], 4, 5, allowed=False)
    with pytest.raises(CcaError, match="2 of 4 greedy traces were cut off at 5 tokens"):
        check_cut_off([[cut], [cut], [right], [right]], 4, 5, allowed=False)
    check_cut_off([[cut], [cut], [right], [right]], 4, 5, allowed=True)


def test_a_run_whose_limit_is_too_short_is_refused_unless_allowed(tmp_path: Path) -> None:
    config = tiny_run.make(tmp_path, judge={"name": "regex", "pattern": r"(w\d+)$"})
    with pytest.raises(CcaError, match="greedy traces were cut off at 5 tokens before their answer"):
        run_stage(load_config(config), "traces", NoProgress())
    (log,) = tmp_path.glob("*/traces.jsonl")
    before = log.read_bytes()
    with pytest.raises(CcaError, match="greedy traces were cut off"):  # known already: nothing more is made
        run_stage(load_config(config), "traces", NoProgress())
    assert log.read_bytes() == before
    allowed = load_config(config, ["traces.allow_cut_off=true", f"out={tmp_path / 'allowed'}"])
    with pytest.raises(CcaError, match="nothing to pair"):
        run_stage(allowed, "traces", NoProgress())
    rows = map(json.loads, (tmp_path / "allowed" / "traces.jsonl").read_text().splitlines()[1:])
    assert {trace["verdict"] for row in rows for trace in row["traces"] if not trace["finished"]} == {"unreadable"}
