"""A stranger's path on the bundled model: files in, `cca run`, a patch and a report out."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from cca.problems.problem import write_problems
from cca.tinymath import BUNDLED_MODEL
from cca.tinymath.task import load

pytestmark = pytest.mark.integration

KEYS = (
    "base.accuracy", "patched.accuracy", "gain.points", "gain.interval", "gain.p_value", "share.components",
    "share.heads", "share.neurons", "share.parameters", "drift.kl", "pivots.count", "versions", "fingerprint",
    "retention.facts.base", "retention.facts.patched", "retention.facts.interval", "controls.random.gain.points",
    "timing.traces.seconds", "timing.traces.tokens", "timing.amplify.seconds",
)  # fmt: skip


def cca(*arguments: str | Path) -> str:
    command = [sys.executable, "-c", "from cca.cli import main; main()", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def value(report: dict[str, Any], dotted: str) -> Any:
    for key in dotted.split("."):
        report = report[key]
    return report


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    task = load(3)
    splits = {"train": task.train[::2], "validation": task.validation[::2], "test": task.test[::3]}
    splits |= {name: task.retention[name][:120] for name in ("facts", "sorting")}
    for name, problems in splits.items():
        write_problems(folder / f"{name}.jsonl", problems)
    config = {
        "model": str(BUNDLED_MODEL),
        "task": {split: str(folder / f"{split}.jsonl") for split in ("train", "validation", "test")},
        "retention": [str(folder / "facts.jsonl"), str(folder / "sorting.jsonl")],
        "out": str(folder / "out"),
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(config))
    cca("run", folder / "run.yaml")
    return folder


@pytest.fixture(scope="module")
def report(run: Path) -> dict[str, Any]:
    return json.loads((run / "out" / "report.json").read_text())


def test_the_report_has_its_keys(report: dict[str, Any]) -> None:
    for key in KEYS:
        assert value(report, key) is not None, key


def test_the_skill_goes_up_and_nothing_else_moves(report: dict[str, Any]) -> None:
    assert 0.5 < report["base"]["accuracy"] < 0.85
    assert report["gain"]["points"] > 10
    assert report["gain"]["interval"][0] > 0
    assert report["gain"]["p_value"] < 1e-3  # over templates
    assert report["gain"]["mcnemar_p"] < 1e-6
    budget, amplified = report["config"]["amplify"]["budget"]["drift"], report["amplify"]
    assert 0 < report["drift"]["kl"] <= budget
    taken = next(step for step in amplified["history"] if step["step"] == amplified["best_step"])
    assert 0 < taken["validation"]["drift"] <= budget
    assert report["share"]["parameters"] <= 0.02
    for skill in report["retention"].values():
        assert abs(skill["patched"] - skill["base"]) <= 1 / skill["problems"]


def test_planted_pivots_are_found(report: dict[str, Any]) -> None:
    planted = report["pivots"]["planted"]
    assert planted["recall"] > 0.5
    assert planted["precision"] > 0.5


def test_a_finished_run_is_not_repeated(run: Path) -> None:
    stages = ("traces.jsonl", "pivots.jsonl", "circuit.jsonl", "patch.safetensors", "evaluation.json")
    before = {name: (run / "out" / name).stat().st_mtime_ns for name in stages}
    cca("run", run / "run.yaml")
    assert {name: (run / "out" / name).stat().st_mtime_ns for name in stages} == before


def test_the_page_stands_alone(run: Path) -> None:
    page = (run / "out" / "report.html").read_text()
    assert "<table" in page
    assert 'src="http' not in page
    assert "@import" not in page


def test_apply_then_revert_gives_back_the_base(run: Path, tmp_path: Path) -> None:
    patch = run / "out" / "patch.safetensors"
    base = tmp_path / "base"
    shutil.copytree(BUNDLED_MODEL, base)
    cca("patch", "verify", base, patch)
    cca("patch", "apply", base, patch, "--out", tmp_path / "patched")
    cca("patch", "revert", tmp_path / "patched", patch, "--out", tmp_path / "reverted")

    def digest(folder: Path) -> str:
        return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()

    assert digest(tmp_path / "patched") != digest(base)
    assert digest(tmp_path / "reverted") == digest(base)
    assert patch.stat().st_size < 0.15 * (base / "model.safetensors").stat().st_size
