"""The page of a run: whole, partial, hostile, damaged."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from markup import Page
from run_sample import (
    HOSTILE,
    circuit_rows,
    edit_report,
    gain,
    history,
    pivot_rows,
    report,
    text_rows,
    write_circuit,
    write_lines,
    write_run,
)

from cca.errors import CcaError
from cca.reports.page import render_page
from cca.runs.config import load_config, make_config


def page_of(folder: Path) -> Page:
    return Page(render_page(folder))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Page:
    return page_of(write_run(tmp_path_factory.mktemp("runs") / "demo"))


def test_says_what_was_found(whole: Page) -> None:
    text = whole.text()
    for fact in (
        "Accuracy 67.2 % → 94.8 % on 1,152 problems in 24 templates",
        "by changing 0.46 % of the parameters",
        "+22.4 to +32.9", "p = 3e-61", "templates never seen", "multiple choice", "8.8e-6", "random circuit",
        "341 became right and 23 became wrong", "drift 9.3e-4 nats, 270 times the patch’s 3.4e-6",
        "30 components (30 neurons)", "attribution:absolute", "best step: 10", "60 pivots in 24 templates",
        "20 on problems where the greedy trace was right, 40 where it was wrong", "93.0 %", "71.0 %",
        "controls", "1 min 12 s", "412,931", "0123456789abcdef", "2.13.0", "cca run run.yaml", "2026-05-04 10:20 UTC",
    ):  # fmt: skip
        assert fact in text, fact
    assert "Unfinished" not in text


def test_is_self_contained_and_runs_nothing(whole: Page) -> None:
    assert not {"script", "link", "img", "iframe", "object", "base", "form", "a", "image", "use"} & set(whole.tags)
    for tag, name, value in whole.attributes:
        assert not name.startswith("on"), (tag, name)
        assert name not in ("src", "href", "xlink:href", "style", "srcset"), (tag, name, value)
    assert not re.search(r"url\(|@import|https?:", "".join(whole.all_of("style")))
    assert any("default-src 'none'" in value for _, _, value in whole.attributes)


def test_every_plot_has_a_title_and_every_shown_component_too(whole: Page) -> None:
    plots = [i for i, tag in enumerate(whole.tags) if tag == "svg"]
    images = sum((tag, name, value) == ("svg", "role", "img") for tag, name, value in whole.attributes)
    assert images >= 24 + 9 + 6 + 2  # templates, results, stages, circuit, history
    assert sum(whole.tags[i + 1] == "title" for i in plots) == images
    titles = whole.all_of("title")
    assert "The circuit: 30 components in 4 layers" in titles
    assert "none of 200 lost: at most 1.5" in whole.all_of("td")
    assert "facts: 0.0 points, 95 % interval −1.5 to +1.5" in [title.replace("\u00a0", " ") for title in titles]


def test_the_configuration_on_the_page_is_the_one_that_ran(tmp_path: Path) -> None:
    config = {**report()["config"], "model": "a: b # c", "task": {"train": "x'y", "test": "\u202e\x07"}, "judge": None}
    page = page_of(write_run(tmp_path / "demo", report(config=config)))
    (written,) = [data for data in page.all_of("code") if "model:" in data]
    assert yaml.safe_load(written) == {**config, "out": "runs/demo-again"}


def test_ten_pivots_spread_over_templates(whole: Page) -> None:
    assert whole.tags.count("li") == 10
    assert whole.tags.count("ins") == whole.tags.count("del") == 11  # ten, and the key
    assert [data for data in whole.all_of("bdi") if data == "␣-"] == ["␣-"] * 10
    assert all(f"{i:02d}_" in whole.text() for i in range(1, 11))


def hostile_run(folder: Path, text: str) -> Path:
    """The same run with ``text`` wherever a text comes from a file."""
    found = report([text])
    found["retention"] = {text: found["retention"]["reversal"]}
    found["config"] = {"model": text, "task": {"test": f"set {text}"}, text: text}
    found["versions"] = found["hardware"] = {text: text}
    found["timing"] = {text: {"seconds": 1.0, "tokens": 1}}
    found["controls"][text] = {"gain": gain(1.0, 0.0, 2.0)}
    found["fingerprint"] = found["made_from"]["model"] = text
    texts = text_rows(
        1, [text], problem=text, prompt_text=text, prefix_text=text, desired_text=text, undesired_text=text
    )
    write_run(folder, found, pivots=pivot_rows(2, [text]), texts=texts)
    write_circuit(folder, circuit_rows(), method=text)
    return folder


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_texts_from_files_are_only_ever_text(tmp_path: Path, text: str) -> None:
    plain = page_of(hostile_run(tmp_path / "plain", "plain"))
    hostile = page_of(hostile_run(tmp_path / "hostile", text))
    assert hostile.tags == plain.tags
    assert [(tag, name) for tag, name, _ in hostile.attributes] == [(tag, name) for tag, name, _ in plain.attributes]
    shown = hostile.text()
    assert not re.search("[\x00-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]", shown)
    assert len(shown) < 40_000  # only the configuration is shown in full


def test_stays_small_on_a_large_model(tmp_path: Path) -> None:
    layers = [{"q": 64, "k": 8, "v": 8, "neuron": 28672}] * 80
    found = report(anatomy={"layers": layers})
    texts = text_rows(prompt_text="a worked example " * 2000)
    text = render_page(write_run(tmp_path, found, circuit=circuit_rows(80, 28672, 6000, 200), texts=texts))
    Page(text)
    assert len(text) < 600_000


def test_a_run_that_has_only_begun(tmp_path: Path) -> None:
    write_run(tmp_path)
    for name in ("report.json", "circuit.jsonl", "pivots_text.jsonl", "pivots.jsonl", "timing.json"):
        (tmp_path / name).unlink()
    page = page_of(tmp_path)
    assert "Not there yet: traces, pivots, circuit, amplify, evaluate" in page.text()
    assert "cca run run.yaml" in page.text()
    assert page.tags.count("svg") == 0


def test_a_run_stopped_before_its_evaluation(tmp_path: Path) -> None:
    write_run(tmp_path)
    (tmp_path / "report.json").unlink()
    (tmp_path / "traces.jsonl").write_text("{}")
    (tmp_path / "amplify.json").write_text(json.dumps(history()))
    text = page_of(tmp_path).text()
    assert "Not there yet: evaluate" in text
    assert "best step: 10" in text
    assert "30 components" in text  # without the anatomy there is a table in place of the picture
    assert "The circuit: 30" not in text


def _no_gain(found: dict[str, Any]) -> None:
    found |= {"amplify": history(3, 0), "gain": gain(0.0, -0.4, 0.4, 1.0), "drift": {"kl": 0.0, "tokens": 0}}


def _bare(found: dict[str, Any]) -> None:
    for key in (
        "retention",
        "controls",
        "unseen_templates",
        "seen_templates",
        "templates",
        "timing",
        "anatomy",
        "made_from",
    ):
        found[key] = None
    found["pivots"] = {"count": 60}


def _tiny_p(found: dict[str, Any]) -> None:
    found["gain"] = gain(27.6, 22.4, 32.9, 0.0)
    found["seen_templates"]["gain"]["p_value"] = 1e-300


def _worse(found: dict[str, Any]) -> None:
    found["gain"] = gain(-12.0, -20.0, -3.0)


def _several_draws(found: dict[str, Any]) -> None:
    random = found["controls"]["random"]
    random["draws"] *= 5
    random["matched"] = {"reached": 0, "drift": None, "patch": 3e-6}


@pytest.mark.parametrize(
    ("change", "said", "unsaid"),
    [
        (_no_gain, ["no gain is shown", "best step 0", "0 nats", "p = 1.00"], ["by changing", "times the patch"]),
        (_bare, ["94.8 %", "60 pivots"], ["Other skills", "controls", "Time per stage", "planted"]),
        (_tiny_p, ["p < 1e-300"], []),
        (_worse, ["−12.0", "made the task worse"], ["no gain is shown"]),
        (_several_draws, ["random circuit 5", "5 random circuits", "None ever became as accurate"], ["One random"]),
    ],
)
def test_edge_cases(tmp_path: Path, change: Any, said: list[str], unsaid: list[str]) -> None:
    found = report()
    change(found)
    text = page_of(write_run(tmp_path, found)).text()
    assert [fact for fact in said if fact not in text] == []
    assert [fact for fact in unsaid if fact in text] == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"gain": {"points": "<b>27</b>"}}, "report.gain.points: expected a finite number"),
        ({"retention": ["facts"]}, "report.retention: expected an object"),
        ({"timing": {"traces": {"seconds": 10**400}}}, "got a huge number"),
        ({"anatomy": {"layers": [{"q": 4}]}}, "is not in the model of this run"),
        ({"gain": {"points": 1.0, "interval": [2.0, 1.0]}}, r"report.gain.interval: expected \[low, high\]"),
    ],
)
def test_a_damaged_report_is_named_in_one_line(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    write_run(tmp_path)
    edit_report(tmp_path, **change)
    with pytest.raises(CcaError, match=named) as caught:
        render_page(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_no_run_and_other_texts(tmp_path: Path) -> None:
    with pytest.raises(CcaError, match=r"expected a run folder"):
        render_page(tmp_path)
    write_run(tmp_path)
    write_lines(tmp_path / "pivots_text.jsonl", "cca.pivots", [])
    with pytest.raises(CcaError, match=r"expected a cca\.pivot-texts file"):
        render_page(tmp_path)


def test_the_run_yaml_on_the_page_gives_the_same_configuration(tmp_path: Path) -> None:
    config = make_config({"model": "org/model", "task": "tinymath", "out": "runs/a", "preset": "paper", "seed": 3})
    dumped = {key: value for key, value in config.model_dump(mode="json").items() if key != "out"}
    page = page_of(write_run(tmp_path / "demo", report(config=dumped)))
    (written,) = [data for data in page.all_of("code") if "model:" in data]
    (tmp_path / "run.yaml").write_text(written)
    again = load_config(tmp_path / "run.yaml")
    assert again == config.model_copy(update={"out": again.out})


@pytest.mark.parametrize(
    ("model", "task", "shown"),
    [
        ("org/model-2b", "gsm-symbolic", "org/model-2b on gsm-symbolic"),
        ("/home/me/models/mine", {"test": "data/hard.jsonl"}, "mine on hard.jsonl"),
        ("./mine", "tinymath", "mine on tinymath"),
        ("tinymath", "tinymath", "tinymath Accuracy"),
    ],
)
def test_the_heading_names_model_and_task_without_folders(tmp_path: Path, model: str, task: Any, shown: str) -> None:
    page = page_of(write_run(tmp_path, report(config={"model": model, "task": task})))
    assert shown in page.text()
