"""The figures of a report as rows, the same for the page and the terminal, and the terminal's table of them.

Three groups: the task (all test problems, templates of the training data, templates that it lacks), the other skills,
and the edits compared (this patch and the controls made on the same data). Texts from files are shown as texts: neither
rich's markup nor a terminal's escape codes act in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cca.reports import formats
from cca.reports.parts import Change
from cca.reports.report import AmplifyStep, Control, Draw, Report

CONTROL_NAMES = {"random": "random circuit"}
STYLES = {"task": "bold", "retention": "", "patch": "bold", "control": ""}


@dataclass(frozen=True)
class ResultRow:
    """``base`` and ``patched`` are fractions; ``drift`` nats per token."""

    group: str
    name: str
    detail: str
    change: Change
    base: float | None = None
    patched: float | None = None
    drift: float | None = None
    unmoved: int | None = None
    """The problems, where not one of them was gained or lost."""

    @property
    def ends(self) -> str:
        """The interval; where nothing was lost, how much could have been all the same."""
        return formats.none_lost(self.unmoved) if self.unmoved else formats.interval(self.change.interval)


def task_rows(report: Report) -> list[ResultRow]:
    """The task's test problems: all, and by whether training saw their template."""
    if report.base.accuracy is None:
        return []
    whole = _problems(report.base.problems, len(report.templates) or None)
    rows = [ResultRow("task", "all test problems", whole, report.gain, report.base.accuracy, report.patched.accuracy)]
    parts = (("templates in training", report.seen_templates), ("templates never seen", report.unseen_templates))
    for name, part in parts:
        if part is not None:
            detail = _problems(part.problems, part.templates)
            rows.append(ResultRow("task", name, detail, part.gain, part.base, part.patched))
    return rows


def retention_rows(report: Report) -> list[ResultRow]:
    """The other skills."""
    return [
        ResultRow(
            "retention", name, _problems(own.problems), own, own.base, own.patched, own.drift,
            own.problems if own.gained == own.lost == 0 else None,
        )
        for name, own in report.retention.items()
    ]  # fmt: skip


def edit_rows(report: Report) -> list[ResultRow]:
    """This patch and its controls: the gain of each on the test problems, and its drift."""
    if not report.controls:
        return []
    base = report.base.accuracy
    detail = formats.counted(report.circuit.components, "component")
    rows = [ResultRow("patch", "this patch", detail, report.gain, base, report.patched.accuracy, report.drift.kl)]
    for name, control in report.controls.items():
        shown, many = CONTROL_NAMES.get(name, name), len(control.draws) > 1
        made: list[tuple[str, str, Control | Draw]] = [
            (f"{shown} {index}" if many else shown, "same size and mix", draw)
            for index, draw in enumerate(control.draws, start=1)
        ]
        for label, detail, own in made or [(shown, "", control)]:
            rows.append(ResultRow("control", label, detail, own.gain, base, own.patched.accuracy, own.drift.kl))
    return rows


def worst_retention(report: Report) -> ResultRow | None:
    """The other skill that lost most."""
    rows = [row for row in retention_rows(report) if row.change.points is not None]
    return min(rows, key=lambda row: row.change.points or 0.0, default=None)


def matched_drift(report: Report) -> tuple[float, float, float | None] | None:
    """(the patch's drift, the random circuits' median drift at the same accuracy, their ratio).

    Measured on the validation data. None where no random circuit got that far, and where the patch is the untouched
    model, whose accuracy takes no step to reach.
    """
    random = report.controls.get("random")
    if report.amplify.best_step == 0 or random is None or random.matched is None:
        return None
    patch, control = random.matched.patch, random.matched.drift
    if patch is None or control is None:
        return None
    return patch, control, control / patch if patch > 0 else None


def reached_match(report: Report) -> int | None:
    """How many random circuits became as accurate as the patch; None where that is not known."""
    random = report.controls.get("random")
    return None if random is None or random.matched is None else random.matched.reached


def total_seconds(report: Report) -> float:
    return sum(cost.seconds or 0.0 for cost in report.timing.values())


def shares(report: Report) -> list[tuple[str, float]]:
    """The edited share of the model, three ways and of all components."""
    parts = [(what, getattr(report.share, what)) for what in ("parameters", "neurons", "heads", "components")]
    return [(f"of {what}", part) for what, part in parts if part is not None]


def worst_loss(start: AmplifyStep, now: AmplifyStep) -> float | None:
    """The largest loss over the other skills since step ``start``, in points (negative: a loss)."""
    before, after = start.validation.retention, now.validation.retention
    return min((100 * (after[name] - before[name]) for name in before if name in after), default=None)


def control_summary(report: Report) -> tuple[int, float | None, float | None] | None:
    """(draws, median gain in points, median drift) of the random circuits."""
    random = report.controls.get("random")
    if random is None:
        return None
    gains = [draw.gain.points for draw in random.draws if draw.gain.points is not None]
    drifts = [draw.drift.kl for draw in random.draws if draw.drift.kl is not None]
    gain, drift = random.gain.points, random.drift.kl
    return (
        len(random.draws),
        median(gains) if gain is None and gains else gain,
        median(drifts) if drift is None and drifts else drift,
    )


def _problems(problems: int | None, templates: int | None = None) -> str:
    if problems is None:
        return ""
    words = formats.counted(problems, "problem")
    return f"{words} in {formats.counted(templates, 'template')}" if templates else words


def summary_table(report: Report) -> RenderableType:
    """The results, their cost and their time."""
    groups = [task_rows(report), retention_rows(report), edit_rows(report)[1:]]  # this patch is the first row already
    table = [_results(groups, report), ""] if any(groups) else []
    return Group(*table, _facts(report))


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
                formats.percent(row.base), formats.percent(row.patched), formats.points(row.change.points), row.ends,
                "" if row.group == "task" and index else formats.nats(moved),
            )  # fmt: skip
            table.add_row(
                _text(formats.label(row.name, 40)), *map(_text, cells), style=STYLES[row.group] if not index else ""
            )
        if group:
            table.add_section()
    return table


def _facts(report: Report) -> Table:
    """Everything that is not an accuracy."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, fact in facts(report):
        grid.add_row(name, _text(fact))
    return grid


def facts(report: Report) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    if edited := shares(report):
        found.append(("edited", ", ".join(f"{formats.share(part)} {what}" for what, part in edited)))
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
    if matched := matched_drift(report):
        patch, control, ratio = matched
        times = f", {formats.significant(ratio)} times the patch's {formats.nats(patch)}" if ratio else ""
        found.append(("random circuit", f"drift {formats.nats(control)} at the same accuracy{times} (validation)"))
    elif (reached := reached_match(report)) is not None:
        found.append(("random circuit", f"{reached or 'none became'} as accurate as the patch"))
    if (pivots := report.pivots.count) is not None:
        planted, known = report.pivots.planted, ""
        if planted is not None:
            precision, recall = formats.percent(planted.precision), formats.percent(planted.recall)
            known = f"; precision {precision}, recall {recall} of the planted ones"
        found.append(("pivots", formats.count(pivots) + known))
    if (step := report.amplify.best_step) is not None:
        found.append(("best step", f"{step}" if step else "0: no step beat the untouched model"))
    if report.timing:
        took = report.timing.items()
        times = ", ".join(f"{formats.label(stage, 24)} {formats.duration(cost.seconds)}" for stage, cost in took)
        found.append(("time", f"{formats.duration(total_seconds(report))}: {times}"))
    found += [("note", formats.label(note, 400)) for note in report.notes]
    if report.fingerprint:
        found.append(("fingerprint", formats.label(report.fingerprint)))
    return found


def _text(cell: str) -> Text:
    """Plain text, in signs that every terminal has."""
    return Text(cell.replace(formats.MINUS, "-").replace(formats.UNKNOWN, "-").replace(formats.NBSP, " "))
