"""Where the plots put things."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markup import Page
from run_sample import history, report

from cca.reports import plots
from cca.reports.parts import Change, TemplateAccuracy
from cca.reports.plots import Scale, element, figure
from cca.reports.report import Report
from cca.reports.results import ResultRow, worst_loss

FINITE = st.floats(-1e6, 1e6)


def change(points: float, interval: tuple[float, float] | None = None) -> ResultRow:
    return ResultRow("task", "x", "", Change(points=points, interval=interval))


def test_elements_are_escaped() -> None:
    made = element("text", "<b>&", class_='"><script>', text_anchor=None)
    assert made == '<text class="&#34;&gt;&lt;script&gt;">&lt;b&gt;&amp;</text>'
    assert "<script" not in figure("</title><script>", 10)


@given(FINITE, FINITE, FINITE)
def test_a_scale_stays_within_its_ends(low: float, high: float, value: float) -> None:
    scale = Scale(min(low, high), max(low, high), 5, 95)
    assert 5 <= scale.at(value) <= 95
    ticks = scale.ticks(5)
    room = 1e-6 * (1 + scale.high - scale.low)
    assert 1 <= len(ticks) <= 6 or scale.high > scale.low
    assert all(scale.low - room <= tick <= scale.high + room for tick in ticks)


@pytest.mark.parametrize(
    ("scale", "ticks"),
    [
        (Scale(0, 100), [0, 20, 40, 60, 80, 100]),
        (Scale(-3.2, 33), [0, 10, 20, 30]),
        (Scale(0.68, 0.93), [0.7, 0.75, 0.8, 0.85, 0.9]),
        (Scale(4, 4), [4]),
        (Scale(3e-8, 2e-5, log=True), [1e-7, 1e-6, 1e-5]),
        (Scale(1e-12, 1, log=True), [1e-12, 1e-9, 1e-6, 1e-3, 1]),
    ],
)
def test_ticks_are_round(scale: Scale, ticks: list[float]) -> None:
    assert scale.ticks() == pytest.approx(ticks)


def test_a_logarithmic_scale_has_zero_on_its_floor() -> None:
    scale = Scale(1e-8, 1e-4, 100, 0, log=True)
    assert [scale.at(value) for value in (0.0, 1e-8, 1e-6, 1e-4)] == pytest.approx([100, 100, 50, 0])


def test_changes_share_a_scale_that_holds_zero_and_every_interval() -> None:
    rows = [change(27.0, (22.0, 39.0)), change(-1.0, (-3.0, 1.0))]
    scale = plots.change_scale(rows)
    assert scale.low < -3
    assert scale.high > 39
    assert plots.change_scale([change(0.0)]).at(0) == 50
    drawn = plots.interval_plot(rows[0], scale)
    zero, whisker = re.findall(r'<line x1="([\d.]+)%"[^>]*class="(?:zero|whisker task)"', drawn)[:2]
    assert float(zero) == pytest.approx(scale.at(0), abs=0.01)
    assert float(whisker) == pytest.approx(scale.at(22.0), abs=0.01)


@pytest.mark.parametrize(("base", "patched", "kind"), [(0.4, 0.9, "gained"), (0.9, 0.4, "lost")])
def test_a_loss_looks_different_from_a_gain_without_colour(base: float, patched: float, kind: str) -> None:
    assert f'class="{kind}"' in plots.dumbbell(TemplateAccuracy(template="t", base=base, patched=patched))


@pytest.mark.parametrize(("steps", "best"), [(14, 10), (1, 0), (1, 1), (90, 90)])
def test_history_has_a_mark_a_step_and_one_ring_a_panel(steps: int, best: int) -> None:
    page = Page(plots.history_plot(Report.from_json(report(amplify=history(steps, best)))))
    kinds = [value for tag, name, value in page.attributes if (tag, name) == ("path", "class")]
    assert len(kinds) == 3 * (steps + 1) - 1  # the gap of the last step's weights is not measured
    assert kinds.count("mark best-mark") == (3 if best < steps else 2)
    assert sum("(best)" in title for title in page.all_of("title")) == kinds.count("mark best-mark")


def test_history_survives_zero_and_equal_values() -> None:
    flat = history(3, 0)
    for record in flat["history"]:
        record["validation"] |= {"accuracy": 0.5, "drift": 0.0}
        record["logit_gap"] = None
    drawn = plots.history_plot(Report.from_json(report(amplify=flat)))
    assert "not recorded" in drawn
    assert "nan" not in drawn


@pytest.mark.parametrize(("first", "steps"), [(None, [0, 1, 2, 3]), (-0.5, [0, 1, 2, 3, 4])])
def test_the_gap_of_a_step_is_drawn_at_the_weights_it_was_measured_on(first: float | None, steps: list[int]) -> None:
    found = history(4, 2)
    found["history"][0]["logit_gap"] = first
    panels = plots.history_panels(Report.from_json(report(amplify=found)))
    assert [point.step for point in panels[1].points] == steps


def test_the_worst_other_skill_is_counted_from_step_zero() -> None:
    steps = Report.from_json(report()).amplify.history
    assert worst_loss(steps[0], steps[0]) == 0
    assert worst_loss(steps[0], steps[10]) == pytest.approx(-0.5)
