"""lm-evaluation-harness on the model object: lm-eval's own numbers for base and merged checkpoint, offline."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lm_eval_tasks import model_and_patch, write_tasks

import tiny_world
from cca.errors import CcaError
from cca.evaluation.lm_eval import Outcome, compared, run_tasks
from cca.evaluation.settings import LmEvalConfig
from cca.models.loading import load_model
from cca.patches.patch_file import save_patch

pytest.importorskip("lm_eval")
TASKS = ["cca_choice", "cca_writing"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the base, the merged checkpoint, the patch and the tasks."""
    place = tmp_path_factory.mktemp("lm_eval")
    model, patch = model_and_patch(place / "base")
    save_patch(place / "patch.safetensors", patch)
    with patch.applied(model):
        model.save_pretrained(place / "merged")
    tiny_world.tokenizer().save_pretrained(place / "merged")
    write_tasks(place / "tasks")
    return place


@pytest.mark.integration
def test_patched_object_and_merged_checkpoint_get_the_same_numbers(place: Path) -> None:
    from cca.patches.patch_file import load_patch

    settings = LmEvalConfig(include_path=place / "tasks")
    base, merged = load_model(str(place / "base")), load_model(str(place / "merged"))
    weights = {name: value.clone() for name, value in base.model.state_dict().items()}
    before = run_tasks(base.model, base.codec.tokenizer, TASKS, settings)
    with load_patch(place / "patch.safetensors").applied(base.model):
        after = run_tasks(base.model, base.codec.tokenizer, TASKS, settings)
    theirs = run_tasks(merged.model, merged.codec.tokenizer, TASKS, settings)
    assert all(torch.equal(value, weights[name]) for name, value in base.model.state_dict().items())
    rows = compared(before, after)
    for task in TASKS:
        assert after[task] == theirs[task]
        assert rows[task]["points"] == pytest.approx(100 * (rows[task]["patched"] - rows[task]["base"]))
        assert rows[task]["interval"][0] <= rows[task]["points"] <= rows[task]["interval"][1]
        assert 0 <= rows[task]["p_value"] <= 1
    assert rows["cca_choice"]["metrics"]["acc,none"]["base"] == rows["cca_choice"]["base"]
    assert before["cca_choice"] != after["cca_choice"]  # the patch did something


@pytest.mark.integration
def test_a_group_is_one_task_with_the_documents_of_all(place: Path) -> None:
    base = load_model(str(place / "base"))
    settings = LmEvalConfig(include_path=place / "tasks", limit=5)
    found = run_tasks(base.model, base.codec.tokenizer, ["cca_both"], settings)
    assert {leaf: len(values) for leaf, values in found["cca_both"].documents.items()} == dict.fromkeys(TASKS, 5)


@pytest.mark.parametrize(
    ("tasks", "include", "message"),
    [(["cca_choise"], "tasks", "did you mean 'cca_choice'"), (["cca_choice"], "nowhere", "expected a folder")],
)
def test_unknown_tasks_and_folders_are_named(place: Path, tasks: list[str], include: str, message: str) -> None:
    base = load_model(str(place / "base"))
    with pytest.raises(CcaError, match=message):
        run_tasks(base.model, base.codec.tokenizer, tasks, LmEvalConfig(include_path=place / include))


def test_without_lm_eval_the_error_says_what_to_install(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = load_model(str(place / "base"))
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(CcaError, match=r'pip install -e "\.\[lm-eval\]"'):
        run_tasks(base.model, base.codec.tokenizer, TASKS)


@pytest.mark.integration
def test_cca_evaluate_says_what_lm_evals_own_command_says(place: Path) -> None:
    """Both commands as a user types them, for the base and for the merged checkpoint."""
    command = [sys.executable, "-c", "from cca.cli import main; main()", "evaluate", "--model", str(place / "base")]
    options = ["--patch", str(place / "patch.safetensors"), "--lm-eval", ",".join(TASKS)]
    folder = ["--include-path", str(place / "tasks"), "--out", str(place / "results.json")]
    subprocess.run([*command, *options, *folder], check=True, capture_output=True)
    ours = json.loads((place / "results.json").read_text())["retention"]
    for side, model in (("base", "base"), ("patched", "merged")):
        theirs_file = place / f"theirs-{side}"
        subprocess.run(
            [
                *(sys.executable, "-m", "lm_eval", "run", "--model", "hf"),
                *("--model_args", f"pretrained={place / model}"),
                *("--tasks", ",".join(TASKS), "--include_path", str(place / "tasks"), "--device", "cpu"),
                *("--output_path", str(theirs_file)),
            ],
            check=True,
            capture_output=True,
        )  # fmt: skip
        (found,) = theirs_file.rglob("results_*.json")
        theirs = json.loads(found.read_text())
        for task in TASKS:
            numbers = {key: value[side] for key, value in ours[task]["metrics"].items()}
            assert numbers == {key: theirs["results"][task][key] for key in numbers}
            # lm-eval's own file of the same results lies beside ours.
            files = list((place / "results.lm_eval" / side).rglob("results_*.json"))
            same = [json.loads(file.read_text())["results"] for file in files]
            assert {**theirs["results"][task]} in [own.get(task) for own in same]


def results(metric: str, values: dict[str, list[float]], **aggregate: float) -> dict[str, object]:
    """lm-eval's results, as much of them as is read."""
    samples = {
        leaf: [{"doc_id": n, "filter": "none", "metrics": [metric], metric: value} for n, value in enumerate(own)]
        for leaf, own in values.items()
    }
    return {"results": {"task": aggregate}, "samples": samples}


def test_pairs_intervals_and_tests_of_a_group_resample_its_tasks() -> None:
    before = Outcome.of(results("acc", {"a": [0, 0, 1, 1], "b": [0, 1, 0, 0]}), "task")
    after = Outcome.of(results("acc", {"a": [1, 1, 1, 1], "b": [0, 1, 0, 0]}), "task")
    row = compared({"task": before}, {"task": after})["task"]
    assert (row["base"], row["patched"], row["points"], row["problems"]) == (3 / 8, 5 / 8, 25.0, 8)
    low, high = row["interval"]  # of two tasks one gained 50 points and one nothing: all is possible
    assert low < 0 < 50 < high
    assert row["p_value"] > 0.4
    assert compared({"task": before})["task"]["base"] == 3 / 8


def test_a_metric_that_is_no_fraction_has_no_points() -> None:
    outcome = Outcome.of(results("word_perplexity", {"a": [3.5, 9.0]}, **{"word_perplexity,none": 5.0}), "task")
    row = compared({"task": outcome}, {"task": outcome})["task"]
    assert row["metrics"] == {"word_perplexity,none": {"base": 5.0, "patched": 5.0}}
    assert "points" not in row
    with pytest.raises(CcaError, match="expected a metric with a number"):
        Outcome.of(
            {"results": {}, "samples": {"a": [{"doc_id": 0, "filter": "none", "metrics": ["x"], "x": "?"}]}}, "t"
        )
