"""What `cca plan` foretells of a run, held against the run."""

from __future__ import annotations

from pathlib import Path

import pytest

import tiny_run
from cca.cli.plan_table import plan_lines
from cca.runs.config.config import load_config
from cca.runs.pipeline import run
from cca.runs.plan import held_against, make_plan
from cca.runs.progress.progress import NoProgress

pytestmark = pytest.mark.integration

STAGES = ["traces", "pivots", "circuit", "amplify", "evaluate", "controls"]


def test_tokens_and_memory_come_out_as_planned(tmp_path: Path) -> None:
    # 16 problems, all in the sample, and as many steps as are assumed: what is left is the expectation itself.
    amplify = {
        "steps": 4,
        "patience": 2,
        "validate_at": [1, 2],
        "predicted_change": 1.0,
        "budget": {"points": 100, "drift": 10},
    }
    config = load_config(tiny_run.make(tmp_path, amplify=amplify))
    plan = make_plan(config, NoProgress(), 20)
    assert list(plan["stages"]) == STAGES
    assert plan["sample"]["problems"] == tiny_run.SIZES["train"]
    assert plan["warnings"] == []
    report = run(config, NoProgress())
    held = report["plan"]
    assert list(held) == [*STAGES, "total"]
    assert held["amplify"]["steps"]["happened"] == len(report["amplify"]["history"]) - 1
    assert held["controls"]["steps"]["happened"] == report["controls"]["random"]["draws"][0]["steps"]
    for stage in ("amplify", "controls"):
        assert 1 / 1.5 < held[stage]["tokens_for_steps"]["ratio"] < 1.5, (stage, held[stage])
    for stage in ("traces", "amplify", "evaluate", "controls", "total"):
        assert 1 / 1.5 < held[stage]["tokens"]["ratio"] < 1.5, (stage, held[stage])
    for stage in STAGES:
        assert 1 / 1.5 < held[stage]["peak_cpu_bytes"]["ratio"] < 1.5, (stage, held[stage])
    assert plan["expected"]["pivots"] == pytest.approx(report["pivots"]["count"], rel=0.5)
    assert any("warning" in line for line in plan_lines({**plan, "warnings": ["too much"]}))


def test_a_plan_is_held_as_it_stands_and_for_the_steps_taken() -> None:
    amplify = {"seconds": 20.0, "tokens": 100, "steps": 10, "each": {"seconds": 1.5, "tokens": 8}}
    plan = {"stages": {"traces": {"seconds": 5.0, "tokens": 50}, "amplify": amplify}}
    accounts = {"traces": {"seconds": 6.0, "tokens": 40}, "amplify": {"seconds": 24.0, "tokens": 150}}
    held = held_against(plan, accounts, {"amplify": 14})
    assert held["amplify"]["steps"] == {"planned": 10, "happened": 14, "ratio": 1.4}
    assert held["amplify"]["seconds"]["ratio"] == 1.2
    assert held["amplify"]["seconds_for_steps"] == {"planned": 26.0, "happened": 24.0, "ratio": 0.923}
    assert held["amplify"]["tokens_for_steps"]["planned"] == 132
    assert held["total"]["seconds"]["planned"] == 25.0
    assert held["total"]["seconds_for_steps"] == {"planned": 31.0, "happened": 30.0, "ratio": 0.968}
    assert "seconds_for_steps" not in held["traces"]


def test_a_plan_of_another_configuration_is_not_held_against_the_run(tmp_path: Path) -> None:
    path = tiny_run.make(tmp_path)
    make_plan(load_config(path, ["traces.samples=2"]), NoProgress(), 1)
    assert "plan" not in run(load_config(path), NoProgress())


def test_what_will_not_fit_is_said_with_the_knob(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config(tiny_run.make(tmp_path, judge={"name": "regex", "pattern": "nothing"}))
    monkeypatch.setattr("cca.runs.plan_memory.free_memory", lambda _: -200_000_000)
    warnings = "\n".join(make_plan(config, NoProgress(), 1)["warnings"])
    assert "amplify.batch_size, or amplify.gradient_checkpointing" in warnings
    assert "there may be nothing to pair (greedy accuracy 0%)" in warnings
