"""From rows of arms to compare.json, its tables and its page, checked by hand on small histories."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cca.compare.arm_log import ArmLog
from cca.compare.config import compare_config
from cca.compare.intervals import gain_interval, geometric_interval, geometric_mean
from cca.compare.markdown import results_page
from cca.compare.matched import best_step, first_reaching
from cca.compare.page import compare_page
from cca.compare.pareto import cost_curve, frontier
from cca.compare.results import combined
from cca.compare.table import arm_cells
from cca.errors import CcaError
from cca.files import Row
from compare_rows import history, row

CONFIG = compare_config(
    {
        "out": "o", "models": [{"model": "m"}], "seeds": [0, 1], "matched": {"points": [10]},
        "arms": [{"name": "ours"}, {"name": "rival"}],
    }
)  # fmt: skip


def result() -> Row:
    rows = [
        row("ours", history((0.5, 0), (0.6, 0.1), (0.7, 0.2), (0.6, 0.3))),
        row("ours", history((0.5, 0), (0.6, 0.2), (0.8, 0.4), (0.9, 5.0)), seed=1),
        row("rival", history((0.5, 0), (0.7, 4.0))),
        row("rival", history((0.5, 0), (0.6, 2.0), (0.6, 9.0)), seed=1),
        row("ours: random", history((0.5, 0), (0.75, 0.6)), control="random", draw=1),
        row("ours: random", history((0.5, 0), (0.75, 1.0)), control="random", draw=2),
        {**row("broken", history((0.5, 0))), "failed": "circuit: no component <b>"},
    ]
    return combined(CONFIG, rows)


def arm(made: Row, label: str) -> Row:
    return next(a for a in made["arms"] if a["label"] == label)


def test_the_first_step_that_reaches_and_the_best_step() -> None:
    steps = history((0.9, 0), (0.6, 0.1), (0.8, 0.5), (0.8, 0.3), (0.95, 7))
    assert first_reaching(steps, 0.8) is steps[2], "the untouched model reaches nothing"
    assert first_reaching(steps, 0.96) is None
    assert best_step(steps) is steps[0]
    assert best_step(steps, within_budget=False) is steps[4]
    assert best_step(history((0.5, 0), (0.8, 0.5), (0.8, 0.3)))["step"] == 2, (
        "of equals the one that drifted least"
    )


def test_arms_are_told_in_budget_at_any_cost_and_where_gain_is_matched() -> None:
    made = result()
    ours, rival = arm(made, "ours"), arm(made, "rival")
    assert ours["best"]["gain"]["points"] == pytest.approx((20 + 30) / 2)
    assert ours["any"]["gain"]["points"] == pytest.approx((20 + 40) / 2)
    assert ours["any"]["drift"]["mean"] == pytest.approx((0.2 * 5.0) ** 0.5)
    assert rival["best"]["gain"]["points"] == 0
    ten = rival["matched"]["+10 points"]
    assert (ten["reached"], ten["of"]) == (2, 2)
    assert ten["drift"]["mean"] == pytest.approx((4.0 * 2.0) ** 0.5)
    assert ten["ratio"] == {
        "median": pytest.approx((40 + 10) / 2),
        "low": pytest.approx(10),
        "high": pytest.approx(40),
    }
    assert (rival["matched"]["reference"]["reached"], rival["matched"]["reference"]["of"]) == (1, 2)
    assert rival["matched"]["reference"]["ratio"]["median"] == pytest.approx(4.0 / 0.2)
    assert ours["any"]["seconds"] == pytest.approx(2.0 + 2.5), "locating counts"


def test_of_several_draws_of_a_control_the_median_counts() -> None:
    matched = arm(result(), "ours: random")["matched"]["+10 points"]
    assert matched["ratio"]["median"] == pytest.approx(((0.6 + 1.0) / 2) / 0.1)


def test_what_failed_is_told_and_nothing_is_made_up_for_it() -> None:
    made = result()
    assert arm(made, "broken")["any"] is None
    assert arm(made, "broken")["failed"][0]["failed"] == "circuit: no component <b>"
    assert "broken" not in made["pareto"]["drift"]
    page, text = compare_page(made), results_page({"Small": made}, "# Results")
    assert "<b>" not in page
    assert "could not be run" in page
    assert "circuit: no component <b>" in text
    assert "<script" not in page
    assert "Least drift at the reference's gain, of 2 runs: `ours` 2." in text


def test_the_page_and_the_tables_hold_every_arm_and_json_holds_no_nan() -> None:
    made = result()
    json.dumps(made, allow_nan=False)
    for target in made["targets"]:
        cells = arm_cells(made, target)
        assert [r[0] for r in cells.rows] == [a["label"] for a in made["arms"]]
        assert {len(r) for r in cells.rows} == {len(cells.heading)}


def test_nothing_beats_what_is_on_the_frontier() -> None:
    points = {"a": (10.0, 1.0), "b": (20.0, 2.0), "c": (10.0, 2.0), "d": (25.0, 9.0), "e": (20.0, 2.0)}
    assert frontier(points) == ["a", "b", "e", "d"]


def test_cost_curves_end_where_fewer_than_half_of_the_runs_get_further() -> None:
    runs = [
        history((0.5, 0), (0.56, 0.1), (0.6, 0.4)),
        history((0.5, 0), (0.53, 0.3)),
        history((0.5, 0), (0.54, 0.5)),
    ]
    curve = cost_curve(runs)
    assert [point["points"] for point in curve] == [2.5]
    assert curve[0]["drift"] == 0.3
    assert [point["points"] for point in cost_curve(runs[:2])] == [2.5, 5.0, 7.5, 10.0]


def test_gain_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    """Many runs and templates with known spread of both: the truth is inside 95 % intervals, give or take."""
    generator = np.random.default_rng(0)
    hits = 0
    for trial in range(25):
        runs: list[list[tuple[float, int]]] = []
        for _ in range(8):
            centre = 0.2 + 0.1 * generator.normal()
            runs.append([(20 * (centre + 0.1 * generator.normal()), 20) for _ in range(8)])
        low, high = gain_interval(runs, seed=trial)
        hits += low <= 0.2 <= high
    assert hits >= 20


def test_one_run_takes_its_interval_from_its_templates_alone() -> None:
    low, high = gain_interval([[(2.0, 10), (8.0, 10), (5.0, 10), (5.0, 10)]])
    assert 0.2 < low < 0.5 < high < 0.8
    assert gain_interval([[(3.0, 10)]]) == pytest.approx((0.3, 0.3))
    assert geometric_interval([1e-5]) is None
    assert geometric_mean([1e-6, 1e-4]) == pytest.approx(1e-5)
    assert geometric_mean([0.0]) > 0


def test_a_torn_row_is_owed_again_and_damage_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "arms.jsonl"
    log = ArmLog(path)
    for key in ("a", "b"):
        log.append({"key": key})
    whole = path.read_bytes()
    path.write_bytes(whole[:-3])
    again = ArmLog(path)
    assert again.get("a") == {"key": "a"}
    assert again.get("b") is None
    again.append({"key": "b"})
    assert path.read_bytes() == whole
    for damage in (
        b'{"format": "other"}\n',
        whole.replace(b'{"key": "a"}', b"{{{"),
        whole.replace(b'"key": "a"', b'"k": 1'),
    ):
        path.write_bytes(damage)
        with pytest.raises(CcaError):
            ArmLog(path)


def test_targets_without_a_reference_gain_are_not_asked() -> None:
    rows: list[Any] = [
        row("ours", history((0.5, 0), (0.4, 0.1))),
        row("rival", history((0.5, 0), (0.7, 0.5))),
    ]
    made = combined(CONFIG, rows)
    assert arm(made, "rival")["matched"]["reference"] == {"reached": 0, "of": 0}
