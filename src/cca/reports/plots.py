"""The plots of a report: an interval on a line, two accuracies on a line, a bar, and what amplify did step by step.

Every series has its own mark (filled, hollow, square, diamond, cross) beside its colour, and every plot a title
in words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from cca.reports import formats
from cca.reports.report import Report
from cca.reports.svg import Scale, element, figure

ROW = 26  # height in pixels of a plot that stands in a table's row
PANEL, GAP, TOP, LEFT = 104, 42, 20, 13
"""Of a history: pixels of a panel, above it, above the first; percent left of its data."""


@dataclass(frozen=True)
class Point:
    """A step's value. ``mark`` is 'in' or 'out' (of the budget)."""

    step: int
    value: float
    mark: str = "in"


@dataclass(frozen=True)
class Panel:
    """One quantity over the steps. ``limit`` is a line that it should stay below, with its text."""

    title: str
    points: Sequence[Point]
    form: Callable[[float], str]
    log: bool = False
    limit: tuple[float, str] | None = None


def change_scale(points: Sequence[float], intervals: Sequence[tuple[float, float]]) -> Scale:
    """One scale for a table's changes, in points; zero is always on it."""
    ends = [0.0, *points, *(end for interval in intervals for end in interval)]
    low, high = min(ends), max(ends)
    room = max(0.06 * (high - low), 0.5)
    return Scale(low - room, high + room)


def interval_plot(
    title: str, points: float | None, interval: tuple[float, float] | None, scale: Scale, mark: str
) -> Markup:
    """A change with its interval against the line of no change."""
    middle = ROW / 2
    parts = [_upright(scale.at(0), 0, ROW, "zero")]
    if interval:
        low, high = (scale.at(end) for end in interval)
        parts.append(_line(low, middle, high, middle, f"whisker {mark}"))
        parts += [_upright(at, middle - 4, middle + 4, f"whisker {mark}") for at in (low, high)]
    if points is not None:
        parts.append(_mark(scale.at(points), middle, mark))
    return figure(title, ROW, *parts)


def change_axis(scale: Scale) -> Markup:
    """The ticks of a table's changes, for its head."""
    parts = []
    for tick in scale.ticks(4):
        parts.append(_upright(scale.at(tick), 18, 23, "tick"))
        parts.append(_text(scale.at(tick), 13, formats.significant(tick), "middle"))
    return figure("Scale: change in percentage points", 24, *parts)


def dumbbell(title: str, base: float, patched: float) -> Markup:
    """Two accuracies of [0, 1]: a hollow mark for the base, a filled one for the patched model."""
    scale, middle = Scale(0, 1, 2, 98), ROW / 2
    ends = scale.at(base), scale.at(patched)
    return figure(
        title,
        ROW,
        _line(2, middle, 98, middle, "rail"),
        _line(*(ends[0], middle, ends[1], middle), "lost" if patched < base else "gained"),
        element("circle", cx=f"{ends[0]:.2f}%", cy=middle, r=4.5, class_="mark hollow"),
        element("circle", cx=f"{ends[1]:.2f}%", cy=middle, r=4.5, class_="mark task"),
    )


def accuracy_axis() -> Markup:
    """The ticks of `dumbbell`, for a table's head."""
    scale = Scale(0, 1, 2, 98)
    ends = {0.0: "start", 1.0: "end"}
    parts = [_text(scale.at(tick), 15, f"{100 * tick:.0f} %", ends.get(tick, "middle")) for tick in (0.0, 0.5, 1.0)]
    return figure("Scale: accuracy from 0 to 100 %", 20, *parts)


def bar(title: str, part: float) -> Markup:
    """A share of [0, 1] as a bar."""
    whole = element("rect", x=0, y=9, width="100%", height=8, rx=2, class_="track")
    return figure(
        title, ROW, whole, element("rect", x=0, y=9, width=f"{100 * part:.2f}%", height=8, rx=2, class_="bar")
    )


def history_plot(title: str, panels: Sequence[Panel], best: int) -> Markup:
    """Panels one under the other over the same steps, with a line down at the best step."""
    last = max((point.step for panel in panels for point in panel.points), default=0)
    steps = Scale(0, max(last, 1), LEFT, 97)
    bottom = TOP + len(panels) * (PANEL + GAP)
    parts = [_upright(steps.at(best), 18, bottom, "best")]
    for index, panel in enumerate(panels):
        parts += _panel(panel, steps, TOP + index * (PANEL + GAP) + GAP, best)
    for tick in steps.ticks(10):
        if tick == int(tick):
            parts.append(_text(steps.at(tick), bottom + 16, f"{tick:.0f}", "middle"))
    side = "end" if steps.at(best) > 70 else "middle" if steps.at(best) > 20 else "start"
    parts.append(_text(steps.at(best), 12, f"best step: {best}", side, "best-label"))
    parts.append(_text(LEFT - 3, bottom + 16, "step", "end"))
    return figure(title, bottom + 24, *parts, kind="plot history")


def _panel(panel: Panel, steps: Scale, top: float, best: int) -> list[Markup]:
    values = [point.value for point in panel.points]
    if not values:
        return [_text(0, top - 4, f"{panel.title}: not recorded", "start", "panel-title")]
    scale = _value_scale(values, panel, top)
    parts = [_text(0, top - 14, panel.title, "start", "panel-title")]
    ticks = [(tick, panel.form(tick)) for tick in scale.ticks(4)]
    if panel.log:  # zero has no place on a logarithmic axis: it is drawn on its floor, and said to be
        floor = scale.at(scale.low)
        ticks = [(tick, text) for tick, text in ticks if floor - scale.at(tick) > 12] + [(scale.low, "0")]
    for tick, text in ticks:
        parts.append(_line(LEFT - 2, scale.at(tick), 100, scale.at(tick), "grid"))
        parts.append(_text(LEFT - 3, scale.at(tick) + 4, text, "end"))
    if panel.limit:
        limit, words = panel.limit
        if scale.low <= limit <= scale.high:
            parts.append(_line(LEFT - 2, scale.at(limit), 100, scale.at(limit), "limit"))
            parts.append(_text(LEFT - 2, scale.at(limit) - 4, words, "start", "limit-label"))
    return [*parts, _curve(panel, steps, scale, top), *_dots(panel, steps, scale, best)]


def _value_scale(values: Sequence[float], panel: Panel, top: float) -> Scale:
    low, high = min(values), max(values)
    if panel.log:
        limit = [panel.limit[0]] if panel.limit and panel.limit[0] < 1e3 * max(high, 1e-12) else []
        some = [value for value in (*values, *limit) if value > 0] or [1e-8]
        return Scale(min(some) / 4, max(some) * 1.6, top + PANEL, top, log=True)
    room = max((high - low) * 0.08, 1e-9 + 0.01 * abs(high))
    return Scale(low - room, high + room, top + PANEL, top)


def _curve(panel: Panel, steps: Scale, scale: Scale, top: float) -> Markup:
    """The line through the points, in a box of its own that stretches sideways while the line keeps its width."""
    places = " ".join(f"{10 * steps.at(point.step):.1f},{scale.at(point.value) - top:.1f}" for point in panel.points)
    line = element("polyline", points=places, class_="curve", vector_effect="non-scaling-stroke")
    return element(
        "svg", line, x=0, y=top, width="100%", height=PANEL, viewBox=f"0 0 1000 {PANEL}",
        preserveAspectRatio="none", overflow="visible",
    )  # fmt: skip


def _dots(panel: Panel, steps: Scale, scale: Scale, best: int) -> list[Markup]:
    dots = []
    for point in panel.points:
        kind = "best-mark" if point.step == best else "cross" if point.mark == "out" else "task"
        words = f"step {point.step}: {panel.form(point.value)}"
        words += " (best)" if point.step == best else " (outside the budget)" if point.mark == "out" else ""
        dots.append(_mark(steps.at(point.step), scale.at(point.value), kind, words))
    return dots


SHAPES = {
    "task": "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0z", "retention": "M-4 -4h8v8h-8z",
    "patch": "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0z", "control": "M0 -6L6 0L0 6L-6 0z",
    "cross": "M-4 -4L4 4M-4 4L4 -4", "best-mark": "M-6.5 0a6.5 6.5 0 1 0 13 0a6.5 6.5 0 1 0 -13 0z",
}  # fmt: skip


def _mark(x: float, y: float, kind: str, title: str | None = None) -> Markup:
    shape = element("path", *_titled(title), d=SHAPES[kind], class_=f"mark {kind}")
    return element("svg", shape, x=f"{x:.2f}%", y=float(y), overflow="visible")


def _titled(title: str | None) -> list[Markup]:
    return [element("title", title)] if title else []


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    return element(
        "line", x1=f"{x1:.2f}%", y1=float(y1), x2=f"{x2:.2f}%", y2=float(y2), class_=kind
    )  # fmt: skip


def _upright(x: float, y1: float, y2: float, kind: str) -> Markup:
    return _line(x, y1, x, y2, kind)


def _text(x: float, y: float, text: str, anchor: str, kind: str | None = None) -> Markup:
    return element("text", text, x=f"{x:.2f}%", y=float(y), text_anchor=anchor, class_=kind)


@dataclass(frozen=True)
class StepRow:
    """One validated step. ``logit_gap`` and ``objective`` are of the model that the step left, not of its result."""

    step: int
    objective: float | None
    logit_gap: float | None
    accuracy: float | None
    drift: float | None
    retention: float | None
    in_budget: bool | None
    best: bool


@dataclass(frozen=True)
class History:
    rows: tuple[StepRow, ...]
    best_step: int
    coefficient: float | None
    drift_budget: float | None

    @staticmethod
    def of(report: Report) -> History | None:
        """None where amplify has not run."""
        records, best = report.amplify.history, report.amplify.best_step or 0
        if not records:
            return None
        start = records[0].validation.retention
        rows = tuple(
            StepRow(
                record.step,
                record.objective,
                record.logit_gap,
                record.validation.accuracy,
                record.validation.drift if start else None,  # without retention sets nobody measured it
                _worst(start, record.validation.retention),
                record.validation.in_budget,
                record.step == best,
            )
            for record in records
        )
        return History(rows, best, report.amplify.coefficient, report.drift_budget)

    @property
    def best(self) -> StepRow | None:
        return next((row for row in self.rows if row.best), None)

    def panels(self) -> list[Panel]:
        gaps = [
            Point(at, row.logit_gap, "in")
            for at, row in zip(self._gap_steps(), self.rows, strict=True)
            if row.logit_gap is not None
        ]
        limit = (self.drift_budget, f"budget {formats.nats(self.drift_budget)}") if self.drift_budget else None
        return [
            Panel("validation accuracy", self._points(lambda row: row.accuracy), _whole_percent),
            Panel("mean logit gap of the pivots, nats", gaps, formats.significant),
            Panel("drift on other skills, nats per token", self._points(lambda row: row.drift), formats.nats,
                  log=True, limit=limit),
        ]  # fmt: skip

    def _gap_steps(self) -> Sequence[int]:
        """A step's gap is measured on its way, before it moves the weights, unless even step 0 has one."""
        shift = 1 if self.rows[0].logit_gap is None else 0
        return [max(0, row.step - shift) for row in self.rows]

    def _points(self, value: Callable[[StepRow], float | None]) -> list[Point]:
        return [
            Point(row.step, found, "out" if row.in_budget is False else "in")
            for row in self.rows
            if (found := value(row)) is not None
        ]


def _worst(start: Mapping[str, float], now: Mapping[str, float]) -> float | None:
    """The largest loss over the other skills since step 0, in points (negative: a loss)."""
    return min((100 * (now[name] - before) for name, before in start.items() if name in now), default=None)


def _whole_percent(fraction: float) -> str:
    return f"{100 * fraction:.3g}{formats.NBSP}%"
