"""The table at the end of a run, for the terminal.

Texts from files are shown as texts: neither rich's markup nor a terminal's escape codes act in them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cca.reports import formats, results
from cca.reports.report import Report
from cca.reports.results import ResultRow

STYLES = {"task": "bold", "retention": "", "patch": "bold", "control": ""}


def summary_table(report: Report | Mapping[str, Any]) -> RenderableType:
    """The results, their cost and their time. Raises CcaError for a report that is damaged."""
    document = report if isinstance(report, Report) else Report.from_json(report, "report")
    parts: list[RenderableType] = []
    groups = [
        results.task_rows(document),
        results.retention_rows(document),
        results.edit_rows(document)[1:],  # this patch is the first row already
    ]
    if any(groups):
        parts += [_results(groups, document), ""]
    parts.append(_facts(document))
    return Group(*parts)


def _results(groups: Sequence[Sequence[ResultRow]], report: Report) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
    table.add_column("", min_width=12, overflow="fold")
    for heading in ("base", "patched", "change", "95 % interval", "drift"):
        table.add_column(heading, justify="right", no_wrap=heading != "95 % interval")
    drift = report.drift.kl
    for group in groups:
        for index, row in enumerate(group):
            moved = drift if row.group == "task" and index == 0 else row.drift
            cells = (
                formats.percent(row.base),
                formats.percent(row.patched),
                formats.points(row.points),
                formats.interval(row.interval),
                "" if row.group == "task" and index else formats.nats(moved),
            )
            table.add_row(_name(row), *map(_text, cells), style=STYLES[row.group] if not index else "")
        if group:
            table.add_section()
    return table


def _name(row: ResultRow) -> Text:
    return Text(_plain(formats.label(row.name, 40)))


def _facts(report: Report) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, fact in facts(report):
        grid.add_row(name, _text(fact))
    return grid


def facts(report: Report) -> list[tuple[str, str]]:
    """(name, fact) pairs of everything that is not an accuracy."""
    found: list[tuple[str, str]] = []
    if shares := results.shares(report):
        found.append(("edited", ", ".join(f"{formats.share(part)} {what}" for what, part in shares)))
    gain = report.gain
    if gain.points is not None:
        flips = f"{formats.count(gain.gained)} gained, {formats.count(gain.lost)} lost"
        if gain.mcnemar_p is None:
            found.append(("McNemar", f"{formats.p_value(gain.p_value)} ({flips})"))
        else:
            exact = f"McNemar {formats.p_value(gain.mcnemar_p)}"
            found.append(("p-value", f"{formats.p_value(gain.p_value)} over templates; {exact} ({flips})"))
    if gain.points is not None and report.drift.kl is None:
        found.append(("drift", "not measured: no retention sets, so nothing is known of other skills"))
    if matched := results.matched_drift(report):
        patch, control, ratio = matched
        times = f", {formats.significant(ratio)} times the patch's {formats.nats(patch)}" if ratio else ""
        found.append(
            ("random circuit", f"drift {formats.nats(control)} at the same accuracy{times} (validation)")
        )
    elif (reached := results.reached_match(report)) is not None:
        found.append(("random circuit", f"{reached or 'none became'} as accurate as the patch"))
    if (pivots := report.pivots.count) is not None:
        planted = ", ".join(f"{what} {figure}" for what, figure, _ in results.pivot_facts(report)[:2])
        found.append(
            ("pivots", formats.count(pivots) + (f"; {planted} of the planted ones" if planted else ""))
        )
    if (step := report.amplify.best_step) is not None:
        found.append(("best step", f"{step}" if step else "0: no step beat the untouched model"))
    if stages := results.timing_rows(report):
        times = ", ".join(f"{formats.label(stage, 24)} {formats.duration(took)}" for stage, took, _ in stages)
        found.append(("time", f"{formats.duration(results.total_seconds(report))}: {times}"))
    if plan := results.plan_held(report):
        found.append(("against plan", plan))
    found += [("note", formats.label(note, 400)) for note in report.notes]
    if report.fingerprint:
        found.append(("fingerprint", formats.label(report.fingerprint)))
    return found


def _text(cell: str) -> Text:
    return Text(_plain(cell))


def _plain(text: str) -> str:
    """Signs that every terminal has."""
    return text.replace(formats.MINUS, "-").replace(formats.UNKNOWN, "-").replace(formats.NBSP, " ")
