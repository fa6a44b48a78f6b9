"""SVG elements as escaped markup, the scales that place them, and the plots of a report.

Plots take their page's width: horizontal places are percentages, vertical ones pixels, so that text and marks keep
their size on a phone and no script measures anything. Colours and fonts are classes of the page's style sheet. Every
series has its own mark (filled, hollow, square, diamond, cross) next to its colour, and every plot a title in words.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from cca.reports import formats
from cca.reports.report import AmplifyStep, Report, TemplateAccuracy
from cca.reports.results import ResultRow

ROW = 26  # height in pixels of a plot that stands in a table's row
PANEL, GAP, TOP, LEFT = 104, 42, 20, 13
"""Of a history: pixels of a panel, above it, above the first; percent left of its data."""
CIRCLE = "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0z"
SHAPES = {
    "task": CIRCLE, "patch": CIRCLE, "retention": "M-4 -4h8v8h-8z", "control": "M0 -6L6 0L0 6L-6 0z",
    "cross": "M-4 -4L4 4M-4 4L4 -4", "best-mark": "M-6.5 0a6.5 6.5 0 1 0 13 0a6.5 6.5 0 1 0 -13 0z",
}  # fmt: skip


def element(name: str, *children: str | Markup, **attributes: object) -> Markup:
    """One element; ``_`` in an attribute's name stands for ``-`` (``class_`` for class). None leaves it out."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_number(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    inside = "".join(str(escape(child)) for child in children)
    return Markup(f"<{name}{written}>{inside}</{name}>" if inside else f"<{name}{written}/>")


def figure(title: str, height: float, *children: str | Markup, kind: str = "plot") -> Markup:
    """A whole plot, as wide as its place, ``height`` pixels high; ``title`` says what it shows to who cannot see it."""
    named = element("title", formats.label(title, 400))
    return element("svg", named, *children, role="img", class_=kind, width="100%", height=height)


@dataclass(frozen=True)
class Scale:
    """Maps [low, high] onto [start, end] (percent or pixels), linearly or by logarithm."""

    low: float
    high: float
    start: float = 0.0
    end: float = 100.0
    log: bool = False

    def at(self, value: float) -> float:
        """Where ``value`` is; what lies beyond an end is drawn at the end."""
        low, high, here = (self._measure(v) for v in (self.low, self.high, value))
        part = (here - low) / (high - low) if high > low else 0.5
        return self.start + min(max(part, 0.0), 1.0) * (self.end - self.start)

    def ticks(self, most: int = 5) -> list[float]:
        """Round values within the scale."""
        if self.log:
            first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
            stride = max(1, math.ceil((last - first + 1) / most))
            return [10.0**power for power in range(first, last + 1, stride)]
        span = self.high - self.low
        if span <= 0:
            return [self.low]
        step = next(s for s in _round_steps(span) if span / s <= most)
        first = math.ceil(self.low / step - 1e-9)
        return [round(n * step, 12) for n in range(first, math.floor(self.high / step + 1e-9) + 1)]

    def _measure(self, value: float) -> float:
        return math.log10(max(value, self.low)) if self.log else value


def _round_steps(span: float) -> Iterable[float]:
    power = 10.0 ** (math.floor(math.log10(span)) - 1)
    while True:
        yield from (power, 2 * power, 5 * power)
        power *= 10


def _number(value: object) -> object:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else value


def change_scale(rows: Sequence[ResultRow]) -> Scale:
    """One scale for a table's changes, in points; zero is always on it."""
    ends = [0.0, *(row.change.points for row in rows if row.change.points is not None)]
    ends += [end for row in rows for end in row.change.interval or ()]
    low, high = min(ends), max(ends)
    room = max(0.06 * (high - low), 0.5)
    return Scale(low - room, high + room)


def change_axis(scale: Scale) -> Markup:
    """The ticks of a table's changes, for its head."""
    parts = []
    for tick in scale.ticks(4):
        parts.append(_upright(scale.at(tick), 18, 23, "tick"))
        parts.append(_text(scale.at(tick), 13, formats.significant(tick), "middle"))
    return figure("Scale: change in percentage points", 24, *parts)


def interval_plot(row: ResultRow, scale: Scale) -> Markup:
    """A change with its interval against the line of no change."""
    points, interval, middle = row.change.points, row.change.interval, ROW / 2
    title = f"{formats.label(row.name)}: {formats.points(points)} points"
    parts = [_upright(scale.at(0), 0, ROW, "zero")]
    if interval:
        title += f", 95 % interval {formats.interval(interval)}"
        low, high = map(scale.at, interval)
        parts.append(_line(low, middle, high, middle, f"whisker {row.group}"))
        parts += [_upright(at, middle - 4, middle + 4, f"whisker {row.group}") for at in (low, high)]
    if points is not None:
        parts.append(_mark(scale.at(points), middle, row.group))
    return figure(title, ROW, *parts)


ACCURACIES = Scale(0, 1, 2, 98)


def accuracy_axis() -> Markup:
    """The ticks of `dumbbell`, for a table's head."""
    ticks = ((0.0, "start"), (0.5, "middle"), (1.0, "end"))
    parts = [_text(ACCURACIES.at(tick), 15, f"{100 * tick:.0f} %", anchor) for tick, anchor in ticks]
    return figure("Scale: accuracy from 0 to 100 %", 20, *parts)


def dumbbell(row: TemplateAccuracy) -> Markup:
    """Two accuracies of [0, 1]: a hollow mark for the base, a filled one for the patched model."""
    base, patched, middle = row.base or 0.0, row.patched or 0.0, ROW / 2
    left, right = ACCURACIES.at(base), ACCURACIES.at(patched)
    return figure(
        f"{formats.label(row.template)}: base {formats.percent(base)}, patched {formats.percent(patched)}",
        ROW,
        _line(2, middle, 98, middle, "rail"),
        _line(left, middle, right, middle, "lost" if patched < base else "gained"),
        element("circle", cx=f"{left:.2f}%", cy=middle, r=4.5, class_="mark hollow"),
        element("circle", cx=f"{right:.2f}%", cy=middle, r=4.5, class_="mark task"),
    )


def bar(title: str, part: float) -> Markup:
    """A share of [0, 1] as a bar."""
    ends = (("100%", "track"), (f"{100 * part:.2f}%", "bar"))
    return figure(
        title, ROW, *(element("rect", x=0, y=9, width=end, height=8, rx=2, class_=kind) for end, kind in ends)
    )


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


def history_panels(report: Report) -> list[Panel]:
    """Accuracy, logit gap and drift over the validated steps."""
    steps, budget = report.amplify.history, report.drift_budget
    guarded = bool(steps[0].validation.retention)  # without retention sets nobody measured drift

    def points(value: Callable[[AmplifyStep], float | None]) -> list[Point]:
        return [
            Point(step.step, found, "out" if step.validation.in_budget is False else "in")
            for step in steps
            if (found := value(step)) is not None
        ]

    # a step's gap is measured on its way, before it moves the weights, unless even step 0 has one
    shift = 1 if steps[0].logit_gap is None else 0
    gaps = [Point(max(0, step.step - shift), step.logit_gap) for step in steps if step.logit_gap is not None]
    return [
        Panel("validation accuracy", points(lambda step: step.validation.accuracy), _whole_percent),
        Panel("mean logit gap of the pivots, nats", gaps, formats.significant),
        Panel("drift on other skills, nats per token", points(lambda step: step.validation.drift if guarded else None),
              formats.nats, log=True, limit=(budget, f"budget {formats.nats(budget)}") if budget else None),
    ]  # fmt: skip


def history_plot(report: Report) -> Markup:
    """Panels one under the other over the same steps, with a line down at the best step."""
    panels, best = history_panels(report), report.amplify.best_step or 0
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
    last = report.amplify.history[-1].step
    title = f"Validation accuracy, logit gap and drift over {last} steps; best step {best}"
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


def _mark(x: float, y: float, kind: str, title: str | None = None) -> Markup:
    titled = [element("title", title)] if title else []
    shape = element("path", *titled, d=SHAPES[kind], class_=f"mark {kind}")
    return element("svg", shape, x=f"{x:.2f}%", y=float(y), overflow="visible")


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    return element("line", x1=f"{x1:.2f}%", y1=float(y1), x2=f"{x2:.2f}%", y2=float(y2), class_=kind)


def _upright(x: float, y1: float, y2: float, kind: str) -> Markup:
    return _line(x, y1, x, y2, kind)


def _text(x: float, y: float, text: str, anchor: str, kind: str | None = None) -> Markup:
    return element("text", text, x=f"{x:.2f}%", y=float(y), text_anchor=anchor, class_=kind)


def _whole_percent(fraction: float) -> str:
    return f"{100 * fraction:.3g}{formats.NBSP}%"
