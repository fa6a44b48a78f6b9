"""The figures of a report as rows, the same for the page and the terminal.

Three groups: the task (all test problems, templates of the training data, templates that it lacks), the other skills,
and the edits compared (this patch and the controls made on the same data).
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from cca.reports import formats
from cca.reports.figures import Gain, Skill, TestPart
from cca.reports.report import Control, Draw, Held, Report

CONTROL_NAMES = {"random": "random circuit"}


@dataclass(frozen=True)
class ResultRow:
    """``base`` and ``patched`` are fractions; ``points`` and ``interval`` points; ``drift`` nats per token."""

    group: str
    name: str
    detail: str
    base: float | None = None
    patched: float | None = None
    points: float | None = None
    interval: tuple[float, float] | None = None
    p_value: float | None = None
    drift: float | None = None


def task_rows(report: Report) -> list[ResultRow]:
    """The task's test problems: all, and by whether training saw their template."""
    if report.base.accuracy is None:
        return []
    whole = _problems(report.base.problems, len(report.templates) or None)
    rows = [
        _compared(
            "task", "all test problems", whole, report.gain, report.base.accuracy, report.patched.accuracy
        )
    ]
    parts: dict[str, TestPart | None] = {
        "templates in training": report.seen_templates,
        "templates never seen": report.unseen_templates,
    }
    for name, part in parts.items():
        if part is not None:
            detail = _problems(part.problems, part.templates)
            rows.append(_compared("task", name, detail, part.gain, part.base, part.patched))
    return rows


def retention_rows(report: Report) -> list[ResultRow]:
    """The other skills."""
    return [
        _compared("retention", name, _problems(own.problems), own, own.base, own.patched, own.drift)
        for name, own in report.retention.items()
    ]


def edit_rows(report: Report) -> list[ResultRow]:
    """This patch and its controls: the gain of each on the test problems, and its drift."""
    if not report.controls:
        return []
    base = report.base.accuracy
    detail = formats.counted(report.circuit.components, "component")
    rows = [
        _compared("patch", "this patch", detail, report.gain, base, report.patched.accuracy, report.drift.kl)
    ]
    for name, control in report.controls.items():
        shown = CONTROL_NAMES.get(name, name)
        if not control.draws:
            rows.append(_control(shown, "", control, base))
        for index, draw in enumerate(control.draws, start=1):
            numbered = f"{shown} {index}" if len(control.draws) > 1 else shown
            rows.append(_control(numbered, "same size and mix", draw, base))
    return rows


def worst_retention(report: Report) -> ResultRow | None:
    """The other skill that lost most."""
    rows = [row for row in retention_rows(report) if row.points is not None]
    return min(rows, key=lambda row: row.points or 0.0, default=None)


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


def timing_rows(report: Report) -> list[tuple[str, float | None, int | None]]:
    """(stage, seconds, generated tokens), in the order the stages ran."""
    return [(name, own.seconds, own.tokens) for name, own in report.timing.items()]


def total_seconds(report: Report) -> float:
    return sum(cost.seconds or 0.0 for cost in report.timing.values())


def shares(report: Report) -> list[tuple[str, float]]:
    """The edited share of the model, three ways and of all components."""
    share = report.share
    parts = {
        "parameters": share.parameters,
        "neurons": share.neurons,
        "heads": share.heads,
        "components": share.components,
    }
    return [(f"of {what}", part) for what, part in parts.items() if part is not None]


def pivot_facts(report: Report) -> list[tuple[str, str, str]]:
    """(name, figure, meaning) of how well the pivots match the planted ones; empty where none were planted."""
    planted = report.pivots.planted
    if planted is None:
        return []
    return [
        ("precision", formats.percent(planted.precision),
         f"of {formats.count(planted.found)} pivots on problems with planted wrong moves, those that were planted"),
        ("recall", formats.percent(planted.recall),
         f"of {formats.count(planted.planted)} problems with planted wrong moves, those whose planted pivot was found"),
        ("right place", formats.percent(planted.precision_of_place),
         "pivots at a planted place, whatever their two tokens"),
    ]  # fmt: skip


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


def plan_held(report: Report) -> str | None:
    """The run compared with its plan, as planned and for the steps that were taken. Memory: of the largest stage."""
    nothing, total = Held(), report.plan.get("total", {})
    seconds = total.get("seconds", nothing)
    if seconds.planned is None:
        return None
    peaks = [stage.get("peak_cpu_bytes", nothing) for stage in report.plan.values()]
    most = max(peaks, key=lambda peak: peak.happened or 0.0)
    as_planned = formats.times(
        (seconds.ratio, f"planned {formats.duration(seconds.planned)}"),
        (total.get("tokens", nothing).ratio, "tokens"),
        (most.ratio, "memory"),
    )
    steps = [stage["steps"] for stage in report.plan.values() if "steps" in stage]
    if not steps:
        return as_planned
    taken, expected = (sum(int(own or 0) for own in counts) for counts in zip(
        *((own.happened, own.planned) for own in steps), strict=True
    ))  # fmt: skip
    for_steps = formats.times(
        (total.get("seconds_for_steps", nothing).ratio, "time"),
        (total.get("tokens_for_steps", nothing).ratio, "tokens"),
    )
    return f"{as_planned}; for the {taken} steps it took, {expected} expected: {for_steps}"


def _control(name: str, detail: str, control: Control | Draw, base: float | None) -> ResultRow:
    return _compared("control", name, detail, control.gain, base, control.patched.accuracy, control.drift.kl)


def _compared(
    group: str, name: str, detail: str, gain: Gain | Skill, base: float | None, patched: float | None,
    drift: float | None = None,
) -> ResultRow:  # fmt: skip
    return ResultRow(group, name, detail, base, patched, gain.points, gain.interval, gain.p_value, drift)


def _problems(problems: int | None, templates: int | None = None) -> str:
    if problems is None:
        return ""
    words = formats.counted(problems, "problem")
    return f"{words} in {formats.counted(templates, 'template')}" if templates else words
