"""The table of a comparison as plain cells, the same in the terminal, on the page and in docs/results.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table
from rich.text import Text

from cca.compare.results import ArmResult, Comparison, Ratio, TestSummary
from cca.reports import formats


@dataclass(frozen=True)
class Cells:
    heading: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def arm_cells(result: Comparison, target: str) -> Cells:
    """One row per arm: its best step inside the budget and at any cost, and its drift where gain is matched."""
    tested = any(arm.test.any for arm in result.arms)
    heading = (
        "arm", "share trained", "gain in budget", "best gain", "95 % interval", "drift there",
        f"reach {target}", "drift there", f"over {formats.label(result.reference, 24)}", "seconds",
    )  # fmt: skip
    if tested:
        heading += ("test, in budget", "95 % interval", "test, best", "95 % interval")
    return Cells(heading, tuple(_arm_row(arm, target, tested) for arm in result.arms))


def short_cells(result: Comparison, target: str) -> Cells:
    """The columns that fit a terminal."""
    whole, keep = arm_cells(result, target), (0, 1, 2, 3, 5, 6, 7, 8)
    return Cells(_picked(whole.heading, keep), tuple(_picked(row, keep) for row in whole.rows))


def _picked(row: tuple[str, ...], keep: Sequence[int]) -> tuple[str, ...]:
    return tuple(row[place] for place in keep)


def _arm_row(arm: ArmResult, target: str, tested: bool) -> tuple[str, ...]:
    name, inside, best = formats.label(arm.label, 80), arm.best, arm.any
    if inside is None or best is None:
        return (name, "could not be run", *[formats.UNKNOWN] * (12 if tested else 8))
    matched = arm.matched[target]
    cells = (
        name,
        formats.share(arm.share),
        formats.points(inside.gain.points),
        formats.points(best.gain.points),
        formats.interval(best.gain.interval),
        formats.nats(best.drift.mean),
        f"{matched.reached} of {matched.of}",
        formats.nats(matched.drift and matched.drift.mean),
        _ratio(matched.ratio),
        formats.duration(best.seconds),
    )
    return cells + (_test_cells(arm.test.best) + _test_cells(arm.test.any) if tested else ())


def _test_cells(test: TestSummary | None) -> tuple[str, str]:
    if test is None:
        return formats.UNKNOWN, formats.UNKNOWN
    return formats.points(test.gain.points), formats.interval(test.gain.interval)


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
