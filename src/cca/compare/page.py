"""A comparison shown: its table as plain cells (for the terminal, the page and docs/results.md), and compare.html.

The page is self-contained, in the style of the run report. No script runs in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from rich import box
from rich.table import Table
from rich.text import Text

from cca.compare.results import ArmResult, Comparison, Ratio, SummaryGain, TestSummary, WorstSkill
from cca.reports import formats
from cca.reports.svg import Scale

HUES = 12
"""Lines that can be told apart; further arms share a colour and keep their own label."""
HEIGHT, LEAST_DRIFT = 340.0, 1e-9
COSTS = {"drift": "less drift", "parameters": "fewer parameters", "seconds": "less time"}


@dataclass(frozen=True)
class Cells:
    heading: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def arm_cells(result: Comparison, target: str) -> Cells:
    """One row per arm: its best step inside the budget and at any cost, its drift where gain is matched, and its gain
    over the reference arm's with the interval of the paired difference (on the test split where that was measured)."""
    tested, over = any(arm.test.any for arm in result.arms), f"over {formats.label(result.reference, 24)}"
    heading = (
        "arm", "share trained", "gain in budget", "best gain", "95 % interval", "drift there",
        f"reach {target}", "drift there", f"drift {over}", "seconds",
    )  # fmt: skip
    if tested:
        for step in "in budget", "best":
            heading += (f"test, {step}", "95 % interval", f"test, {step}, {over}")
        heading += ("worst other skill",)
    else:
        heading += (f"in budget, {over}", f"best, {over}")
    return Cells(heading, tuple(_arm_row(arm, target, tested, len(heading)) for arm in result.arms))


def short_cells(result: Comparison, target: str) -> Cells:
    """The columns that fit a terminal."""
    whole, keep = arm_cells(result, target), [0, 1, 2, 3, 5, 6, 7, 8]
    keep.append(12 if len(whole.heading) > 12 else 10)  # the paired difference in budget
    return Cells(_picked(whole.heading, keep), tuple(_picked(row, keep) for row in whole.rows))


def _picked(row: tuple[str, ...], keep: Sequence[int]) -> tuple[str, ...]:
    return tuple(row[place] for place in keep)


def _arm_row(arm: ArmResult, target: str, tested: bool, columns: int) -> tuple[str, ...]:
    name, inside, best = formats.label(arm.label, 80), arm.best, arm.any
    if inside is None or best is None:
        return (name, "could not be run", *[formats.UNKNOWN] * (columns - 2))
    matched = arm.matched[target]
    cells = (
        name, formats.share(arm.share), formats.points(inside.gain.points), formats.points(best.gain.points),
        formats.interval(best.gain.interval), formats.nats(best.drift.mean),
        f"{matched.reached} of {matched.of}", formats.nats(matched.drift and matched.drift.mean),
        _ratio(matched.ratio), formats.duration(best.seconds),
    )  # fmt: skip
    if not tested:
        return (*cells, _difference(inside.over), _difference(best.over))
    worst = arm.test.best and arm.test.best.worst_skill
    return (*cells, *_test_cells(arm.test.best), *_test_cells(arm.test.any), _worst(worst))


def _test_cells(test: TestSummary | None) -> tuple[str, str, str]:
    if test is None:
        return formats.UNKNOWN, formats.UNKNOWN, formats.UNKNOWN
    return formats.points(test.gain.points), formats.interval(test.gain.interval), _difference(test.over)


def _difference(over: SummaryGain | None) -> str:
    return formats.UNKNOWN if over is None else f"{formats.points(over.points)} ({formats.interval(over.interval)})"


def _worst(skill: WorstSkill | None) -> str:
    if skill is None:
        return formats.UNKNOWN
    return formats.none_lost(skill.unmoved) if skill.unmoved else formats.points(skill.points)


def _ratio(ratio: Ratio | None) -> str:
    if ratio is None:
        return formats.UNKNOWN
    times = f"{formats.significant(ratio.median)}x"
    if ratio.low == ratio.high:
        return times
    return f"{times} ({formats.significant(ratio.low)} to {formats.significant(ratio.high)})"


def terminal_table(result: Comparison) -> Table:
    cells = short_cells(result, result.targets[-1])
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for place, heading in enumerate(cells.heading):
        table.add_column(heading, justify="right" if place else "left", overflow="fold", no_wrap=place > 0)
    for row in cells.rows:
        table.add_row(*map(Text, row))
    return table


def markdown_table(cells: Cells) -> str:
    lines = [_line(cells.heading), _line(["---", *["---:"] * (len(cells.heading) - 1)])]
    return "\n".join([*lines, *map(_line, cells.rows)])


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def compare_page(result: Comparison) -> str:
    """The page. Text from the configuration is escaped."""
    environment = Environment(
        loader=PackageLoader("cca", "compare"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"label": formats.label, "counted": formats.counted, "significant": formats.significant}
    runs = {(run.model, run.seed) for arm in result.arms for run in arm.runs}
    text = environment.get_template("compare.html").render(
        result=result, style=Markup((files("cca.reports") / "page" / "style.css").read_text(encoding="utf-8")),
        hues=HUES, models=", ".join(sorted({model for model, _ in runs})) or "no model", runs=len(runs),
        tables=[(target, arm_cells(result, target)) for target in result.targets], curves=_curves(result.arms),
        costs=COSTS,
    )  # fmt: skip
    return text.encode("utf-8", "replace").decode()


def _curves(arms: Sequence[ArmResult]) -> dict[str, Any] | None:
    """Gain to the right, drift upwards on a logarithmic scale, which has no zero nor a place for what is unknown."""
    drifts = [[max(point.drift or 0.0, LEAST_DRIFT) for point in arm.curve] for arm in arms]
    if not any(drifts):
        return None
    shown = [drift for own in drifts for drift in own]
    across = Scale(0.0, max(point.points for arm in arms for point in arm.curve), 8.0, 78.0)
    down = Scale(min(shown) / 2, max(shown) * 2, HEIGHT - 30, 12.0, log=True)
    lines = [
        (
            place % HUES,
            arm.label,
            [(across.at(p.points), down.at(drift)) for p, drift in zip(arm.curve, own, strict=True)],
        )
        for place, (arm, own) in enumerate(zip(arms, drifts, strict=True))
        if own
    ]
    height = max(HEIGHT, 30.0 + 15 * len(lines))
    return {"across": across, "down": down, "axis": HEIGHT - 8, "lines": lines, "height": height}
