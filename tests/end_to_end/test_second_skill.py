"""The example of a skill that is not arithmetic, a size smaller: trained, traced, patched; its habit goes."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from cca.problems.problem import write_problems
from cca.runs.config import load_config
from cca.runs.pipeline import run
from cca.runs.progress import NoProgress

pytestmark = pytest.mark.integration

EXAMPLE = Path(__file__).parents[2] / "examples" / "second_skill"
SIZES = {"train": 150, "validation": 75, "test": 250, "capitals": 60, "kinds": 60}


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(EXAMPLE)
    return importlib.import_module("make")


def test_the_trap_is_found_and_turned_off(make: ModuleType, tmp_path: Path) -> None:
    made = tmp_path / "examples" / "second_skill" / "made"
    make.train(made / "model", seed=0, steps=250, planted_steps=400)
    for name, problems in make.problems(0).items():
        write_problems(made / f"{name}.jsonl", problems[: SIZES[name]])
    whole = (EXAMPLE / "run.yaml").read_text().replace("examples/second_skill/made", str(made))
    (tmp_path / "run.yaml").write_text(whole)
    report = run(load_config(tmp_path / "run.yaml", [f"out={tmp_path / 'out'}"]), NoProgress())
    assert json.loads((tmp_path / "out" / "report.json").read_text())["fingerprint"] == report["fingerprint"]
    assert report["gain"]["interval"][0] > 0
    assert report["unseen_templates"]["gain"]["points"] > 0
    planted = report["pivots"]["planted"]
    assert planted["precision_of_place"] > 0.8  # the tokens there vary with the kernels that trained the model
    assert planted["precision"] > 0.2
    for skill in report["retention"].values():
        assert abs(skill["patched"] - skill["base"]) <= 1 / skill["problems"]
    assert yaml.safe_load(whole)["out"] == "runs/second_skill"
