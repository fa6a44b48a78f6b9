"""A comparison on the bundled model, from compare.yaml to the page: finished arms are kept, owed ones are run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from write_results import results_page

from cca.compare.config import compare_config
from cca.compare.pipeline import compare
from cca.compare.results import Comparison
from cca.errors import CcaError
from cca.problems.problem import write_problems
from cca.runs.progress import NoProgress
from cca.tinymath import BUNDLED_MODEL
from cca.tinymath.task import load

pytestmark = pytest.mark.integration
GENEROUS = {
    "circuit.size": 60,
    "amplify.predicted_change": 1.0,
    "amplify.budget.drift": 1.0,
    "amplify.budget.points": 100,
}
ROUNDS = ("rounds retrace=True", "rounds retrace=False")


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder, task = tmp_path_factory.mktemp("compare"), load(5)
    splits = {"train": task.train[::6], "validation": task.validation[::12], "test": task.test[::80]}
    splits["facts"] = task.retention["facts"][:24]
    for name, problems in splits.items():
        write_problems(folder / f"{name}.jsonl", problems)
    model = {
        "name": "small", "model": str(BUNDLED_MODEL), "retention": [str(folder / "facts.jsonl")],
        "task": {split: str(folder / f"{split}.jsonl") for split in ("train", "validation", "test")},
    }  # fmt: skip
    return {
        "out": str(folder / "out"),
        "models": [model],
        "base": {"traces.samples": 3, "amplify.steps": 2},
        "test": True,
        "arms": [
            {"name": "ours", "set": {"circuit.localiser": "selective", "circuit.size": 20}, "controls": {"random": 1}},
            {"name": "too much", "set": {"circuit.localiser": "attribution - attribution"}},
            {"name": "lora", "baseline": "lora-pivots", "options": {"steps": 1}},
            {"name": "gold", "baseline": "finetune-gold", "options": {"steps": 1, "texts": 4}},
            {"name": "rounds", "rounds": 2, "retrace": [True, False], "set": GENEROUS},
        ],
    }


def test_arms_are_run_once_and_named_anew(given: dict[str, Any]) -> None:
    result = compare(compare_config(given), NoProgress())
    out = Path(given["out"])
    arms = {arm.label: arm for arm in result.arms}
    assert list(arms) == ["ours", "ours: random", "too much", "lora", "gold", *ROUNDS]
    assert "to choose components, got none" in arms["too much"].failed[0].failed
    run = arms["ours"].runs[0]
    assert run.circuit is not None
    assert run.circuit["components"] == 20
    assert run.steps == 2
    control = arms["ours: random"].runs[0].circuit
    assert control is not None
    assert control["kinds"] == run.circuit["kinds"]
    assert arms["gold"].share == pytest.approx(1.0)
    tested = arms["ours"].test.best
    assert tested is not None
    assert tested.runs == 1
    assert {arm.runs[0].base for label, arm in arms.items() if label != "too much"} == {run.base}

    rows = [json.loads(line)["value"] for line in (out / "arms.jsonl").read_text().splitlines()[1:]]
    told = {row["label"]: [(s["step"], s["accuracy"], s["drift"]) for s in row.get("history", ())] for row in rows}
    for name in ROUNDS:
        assert [step for step, _, _ in told[name]] == list(range(5)), name
        assert 60 <= (arms[name].components or 0) <= 120
    assert told[ROUNDS[0]][:3] == told[ROUNDS[1]][:3], "rounds differ from the second on"
    assert told[ROUNDS[0]][3:] != told[ROUNDS[1]][3:]

    logged = (out / "arms.jsonl").read_bytes()
    given["arms"][0]["name"] = "renamed"
    given["arms"].append({"name": "more", "set": {"circuit.size": 10, "amplify.steps": 1}})
    again = compare(compare_config(given), NoProgress())
    whole = (out / "arms.jsonl").read_bytes()
    assert whole.startswith(logged)
    assert len(whole[len(logged) :].splitlines()) == 1, "only the arm that was added is run"
    assert again.arms[0].label == "renamed"
    assert json.loads((out / "compare.json").read_text())["arms"][0]["runs"][0]["circuit"] == run.circuit
    assert "renamed" in (out / "compare.html").read_text()
    assert "| renamed |" in results_page({"t": Comparison.read(out / "compare.json")}, "# r")

    test = Path(given["models"][0]["task"]["test"])
    test.write_text("".join(test.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(CcaError, match="test changed since"):
        compare(compare_config(given), NoProgress())
    assert (out / "arms.jsonl").read_bytes() == whole
