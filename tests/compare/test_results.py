"""From rows of arms to compare.json, its tables and its page, checked by hand on small histories."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from write_results import results_page

from cca.compare.combine import best_step, combined, cost_curve, first_reaching, frontier
from cca.compare.config import compare_config
from cca.compare.gains import geometric_interval, geometric_mean
from cca.compare.page import arm_cells, compare_page, short_cells
from cca.compare.results import ArmResult, Comparison
from cca.evaluation.significance import gain_interval
from cca.files import Row
from compare_rows import history, row

CONFIG = compare_config(
    {
        "out": "o", "models": [{"model": "m"}], "seeds": [0, 1], "matched": {"points": [10]},
        "arms": [{"name": "ours"}, {"name": "rival"}],
    }
)  # fmt: skip


def result() -> Comparison:
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


def arm(made: Comparison, label: str) -> ArmResult:
    return next(a for a in made.arms if a.label == label)


def test_the_first_step_that_reaches_and_the_best_step() -> None:
    steps = history((0.9, 0), (0.6, 0.1), (0.8, 0.5), (0.8, 0.3), (0.95, 7))
    assert first_reaching(steps, 0.8) is steps[2], "the untouched model reaches nothing"
    assert first_reaching(steps, 0.96) is None
    assert best_step(steps) is steps[0]
    assert best_step(steps, within_budget=False) is steps[4]
    assert best_step(history((0.5, 0), (0.8, 0.5), (0.8, 0.3)))["step"] == 2, "of equals the one that drifted least"


def points(found: Any) -> float:
    assert found is not None
    return found.gain.points


def test_arms_are_shown_in_budget_at_any_cost_and_where_gain_is_matched() -> None:
    made = result()
    ours, rival = arm(made, "ours"), arm(made, "rival")
    assert points(ours.best) == pytest.approx((20 + 30) / 2)
    assert points(ours.any) == pytest.approx((20 + 40) / 2)
    assert ours.any is not None
    assert ours.any.drift.mean == pytest.approx((0.2 * 5.0) ** 0.5)
    assert ours.any.seconds == pytest.approx(2.0 + 2.5), "locating counts"
    assert points(rival.best) == 0
    ten, reference = rival.matched["+10 points"], rival.matched["reference"]
    assert (ten.reached, ten.of) == (2, 2)
    assert ten.drift is not None
    assert ten.drift.mean == pytest.approx((4.0 * 2.0) ** 0.5)
    assert ten.ratio is not None
    assert ten.ratio.median == pytest.approx((40 + 10) / 2)
    assert (ten.ratio.low, ten.ratio.high) == (pytest.approx(10), pytest.approx(40))
    assert (reference.reached, reference.of) == (1, 2)
    assert reference.ratio is not None
    assert reference.ratio.median == pytest.approx(4.0 / 0.2)


def test_of_several_draws_of_a_control_the_median_counts() -> None:
    ratio = arm(result(), "ours: random").matched["+10 points"].ratio
    assert ratio is not None
    assert ratio.median == pytest.approx(((0.6 + 1.0) / 2) / 0.1)


def trial(label: str, *templates: str, base: str = "0" * 10, seed: int = 0, model: str = "m", lost: int = 0) -> Row:
    """A row whose test has these answers (1 right, 0 wrong) of each template."""
    records = [
        {"template": f"t{n}", "problems": len(base), "base": base.count("1") / len(base),
         "patched": after.count("1") / len(base), "before": base, "after": after}
        for n, after in enumerate(templates)
    ]  # fmt: skip
    gain = 100 * sum(record["patched"] - record["base"] for record in records) / len(records)
    skill = {"base": 1.0, "patched": 1 - lost / 200, "interval": [-2.0, 1.0], "problems": 200, "gained": 0}
    test = {
        "gain": {"points": gain}, "unseen": None, "templates": records, "drift": 0.1,
        "retention": {"other": {**skill, "lost": lost}},
    }  # fmt: skip
    made = row(label, history((0.5, 0), (0.7, 0.2)), seed=seed)
    return {**made, "model": model, "test": {"best": test, "any": test}}


def difference(*rows: Row) -> Any:
    found = arm(combined(CONFIG, rows), "rival").test.best
    assert found is not None
    return found.over


def test_one_arm_beats_another_by_the_paired_difference_of_the_same_problems() -> None:
    ours = trial("ours", *["1100000000", "1110000000"] * 5)
    rival = trial("rival", *["1110000000", "1111000000"] * 5)
    over = difference(ours, rival)
    assert over.points == pytest.approx(10.0)
    changes = [1.0] + [0.0] * 9
    expected = gain_interval(changes * 10, [n // 10 for n in range(100)])
    assert over.interval == pytest.approx(tuple(100 * end for end in expected))
    assert over.interval[0] > 0, "each template gained alike: the difference is shown"
    best = arm(combined(CONFIG, [ours, rival]), "ours").test.best
    assert best is not None
    assert best.over is None, "no arm is held against itself"
    # as many right, but other problems: each one that changed counts, not the net of its template
    other = difference(ours, trial("rival", *["0000000011", "0000000111"] * 5))
    assert other.points == pytest.approx(0.0)
    assert other.interval[0] < -10
    assert other.interval[1] > 10


def test_seeds_of_one_model_are_no_independent_runs_and_models_are() -> None:
    ours, rival = ("1100000000", "1110000000", "1000000000"), ("1110000000", "1111000000", "1100000000")
    once = difference(trial("ours", *ours), trial("rival", *rival))
    thrice = difference(*(trial(*own, seed=seed) for seed in (0, 1, 2) for own in (("ours", *ours), ("rival", *rival))))
    assert thrice == once, "the same problems asked again say nothing new"
    less = ("1100000000", "1110000000", "1100000000")
    models = difference(
        trial("ours", *ours), trial("rival", *rival),
        trial("ours", *ours, model="n"), trial("rival", *less, model="n"),
    )  # fmt: skip
    means = 10.0, 10 / 3
    assert models.points == pytest.approx(sum(means) / 2)
    assert models.interval[1] - models.points >= 12.7 * (means[0] - means[1]) / 2 - 1e-6
    assert "One model" in combined(CONFIG, [trial("ours", *ours)]).scope
    assert "over 2 models" in combined(CONFIG, [trial("ours", *ours), trial("ours", *ours, model="n")]).scope


def test_the_table_and_the_page_show_differences_and_bounds() -> None:
    same = "1" * 5 + "0" * 5
    made = combined(CONFIG, [trial("ours", same, same), trial("rival", same, "1" * 10, lost=3)])
    cells = arm_cells(made, made.targets[0])
    ours, rival = (dict(zip(cells.heading, found, strict=True)) for found in cells.rows)
    assert ours["test, in budget, over ours"] == "–"
    assert rival["test, in budget, over ours"].startswith("+25.0 (−")
    assert (ours["worst other skill"], rival["worst other skill"]) == ("none of 200 lost: at most 1.5", "−1.5")
    page = compare_page(made)
    for text in ("none of 200 lost: at most 1.5", "+25.0 (−", "One model"):
        assert text in page
    assert "in budget, over ours" in " ".join(short_cells(made, made.targets[0]).heading)


def test_rows_of_older_logs_have_no_answers_and_so_no_interval() -> None:
    old = [row(label, history((0.5, 0), (0.7, 0.2))) for label in ("ours", "rival")]
    for record in old[0]["templates"]["best"]:
        del record["before"], record["after"]
    best = arm(combined(CONFIG, old), "rival").best
    ours = arm(combined(CONFIG, old), "ours").best
    assert best is not None
    assert ours is not None
    assert (ours.gain.points, ours.gain.interval) == (pytest.approx(20), None)
    assert best.over is None
    assert best.gain.interval is not None


def test_failures_are_shown_and_nothing_is_made_up_for_them() -> None:
    made = result()
    assert arm(made, "broken").any is None
    assert arm(made, "broken").failed[0].failed == "circuit: no component <b>"
    assert "broken" not in made.pareto["drift"]
    page, text = compare_page(made), results_page({"Small": made}, "# Results")
    assert "<b>" not in page
    assert "could not be run" in page
    assert "circuit: no component <b>" in text
    assert "<script" not in page
    assert "Least drift at the reference's gain, of 2 runs: `ours` 2." in text


def test_names_are_only_ever_text_on_the_page() -> None:
    rows = [row("<i>x</i>", history((0.5, 0), (0.7, 0.2)))]
    page = compare_page(combined(CONFIG, rows))
    assert "<i>" not in page
    assert "&lt;i&gt;x" in page


def test_the_page_and_the_tables_hold_every_arm_and_json_holds_no_nan(tmp_path: Path) -> None:
    made = result()
    text = json.dumps(made.model_dump(mode="json"), allow_nan=False)
    (tmp_path / "compare.json").write_text(text)
    assert Comparison.read(tmp_path / "compare.json") == made
    for target in made.targets:
        cells = arm_cells(made, target)
        assert [r[0] for r in cells.rows] == [a.label for a in made.arms]
        assert {len(r) for r in cells.rows} == {len(cells.heading)}


def test_nothing_beats_what_is_on_the_frontier() -> None:
    points = {"a": (10.0, 1.0), "b": (20.0, 2.0), "c": (10.0, 2.0), "d": (25.0, 9.0), "e": (20.0, 2.0)}
    assert frontier(points) == ["a", "b", "e", "d"]


def test_cost_curves_end_where_fewer_than_half_of_the_runs_get_further() -> None:
    runs = [history((0.5, 0), (0.56, 0.1), (0.6, 0.4)), history((0.5, 0), (0.53, 0.3)), history((0.5, 0), (0.54, 0.5))]
    curve = cost_curve(runs)
    assert [point.points for point in curve] == [2.5]
    assert curve[0].drift == 0.3
    assert [point.points for point in cost_curve(runs[:2])] == [2.5, 5.0, 7.5, 10.0]


def test_geometric_means_and_their_intervals() -> None:
    assert geometric_interval([[1e-5, 1e-4]]) is None, "seeds of one model are no independent runs"
    assert geometric_mean([1e-6, 1e-4]) == pytest.approx(1e-5)
    assert geometric_mean([0.0]) == pytest.approx(1e-12)
    assert geometric_mean([1.0, None]) is None


def test_where_nothing_measures_drift_it_is_null_and_not_none_at_all() -> None:
    steps = [{**step, "drift": None, "drifts": {}, "in_budget": True} for step in history((0.5, 0), (0.9, 0), (0.8, 0))]
    made = combined(CONFIG, [row("ours", steps), row("rival", steps)])
    ours = arm(made, "ours")
    assert ours.best is not None
    assert ours.best.gain.points == pytest.approx(40)
    assert ours.best.drift.mean is None
    assert ours.runs[0].best.drift is None
    assert ours.curve[0].drift is None
    assert arm(made, "rival").matched["reference"].ratio is None
    assert made.pareto["drift"] == ()
    cells = arm_cells(made, made.targets[0])
    assert [found[cells.heading.index("drift there")] for found in cells.rows] == ["–", "–"]
    assert "No arm reaches a gain" not in compare_page(made)


def test_targets_without_a_reference_gain_are_not_asked() -> None:
    rows: list[Any] = [row("ours", history((0.5, 0), (0.4, 0.1))), row("rival", history((0.5, 0), (0.7, 0.5)))]
    made = combined(CONFIG, rows)
    found = arm(made, "rival").matched["reference"]
    assert (found.reached, found.of, found.ratio) == (0, 0, None)
