"""What a report says, as rows of figures: the same for the page and the terminal.

Three groups: the task (all test problems, templates of the training data, templates it lacks), the other skills,
and the edits compared (this patch, the controls made on the same data).
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from cca.reports import formats
from cca.reports.document import Document

CONTROL_NAMES = {
    "random": "random circuit",
    "none": "no circuit",
    "all": "every component",
    "lora": "LoRA, same pivots",
    "lora_gold": "LoRA, gold solutions",
    "finetune": "fine-tuning, gold solutions",
}


@dataclass(frozen=True)
class ResultRow:
    """``base`` and ``patched`` are fractions; ``points`` and ``interval`` percentage points; ``drift`` nats a token."""

    group: str
    name: str
    detail: str
    base: float | None = None
    patched: float | None = None
    points: float | None = None
    interval: tuple[float, float] | None = None
    p_value: float | None = None
    drift: float | None = None


def task_rows(report: Document) -> list[ResultRow]:
    """The task's test problems: all, and by whether training saw their template."""
    if report.number("base", "accuracy") is None:
        return []
    problems, templates = report.count("base", "problems"), len(report.rows("templates"))
    whole = _problems(problems, templates or None)
    rows = [
        _compared("task", "all test problems", whole, report.section("gain"),
                  report.number("base", "accuracy"), report.number("patched", "accuracy"))
    ]  # fmt: skip
    names = {"seen_templates": "templates in training", "unseen_templates": "templates never seen"}
    parts = [(name, report.section(key)) for key, name in names.items()]
    for name, part in parts:
        if part:
            detail = _problems(part.count("problems"), part.count("templates"))
            gain = part.section("gain")
            rows.append(_compared("task", name, detail, gain, part.number("base"), part.number("patched")))
    return rows


def retention_rows(report: Document) -> list[ResultRow]:
    """The other skills."""
    return [
        _compared(
            "retention", name, _problems(own.count("problems")), own, own.number("base"), own.number("patched"),
            own.number("drift"),
        )
        for name, own in report.sections("retention").items()
    ]  # fmt: skip


def edit_rows(report: Document) -> list[ResultRow]:
    """This patch and its controls: what each gained on the test problems and how far it drifted."""
    controls = report.sections("controls")
    if not controls:
        return []
    base = report.number("base", "accuracy")
    detail = formats.counted(report.count("circuit", "components"), "component")
    gain, drift = report.section("gain"), report.number("drift", "kl")
    rows = [_compared("patch", "this patch", detail, gain, base, report.number("patched", "accuracy"), drift)]
    for name, control in controls.items():
        shown = CONTROL_NAMES.get(name, name)
        draws = control.rows("draws")
        if not draws:
            rows.append(_control(shown, "", control, base))
        for index, draw in enumerate(draws, start=1):
            rows.append(
                _control(f"{shown} {index}" if len(draws) > 1 else shown, "same size and mix", draw, base)
            )
    return rows


def worst_retention(report: Document) -> ResultRow | None:
    """The other skill that lost most."""
    rows = [row for row in retention_rows(report) if row.points is not None]
    return min(rows, key=lambda row: row.points or 0.0, default=None)


def matched_drift(report: Document) -> tuple[float, float, float | None] | None:
    """(the patch's drift, the random circuits' median drift at the same accuracy, how many times the patch's that is).

    Measured on the validation data. None where no random circuit got that far, and where the patch is the untouched
    model, whose accuracy takes no step to reach.
    """
    if report.count("amplify", "best_step") == 0:
        return None
    matched = report.section("controls", "random", "matched")
    patch, control = matched.number("patch"), matched.number("drift")
    if patch is None or control is None:
        return None
    return patch, control, control / patch if patch > 0 else None


def timing_rows(report: Document) -> list[tuple[str, float | None, int | None]]:
    """(stage, seconds, generated tokens), in the order the stages ran."""
    return [
        (name, own.number("seconds"), own.count("tokens")) for name, own in report.sections("timing").items()
    ]


def total_seconds(report: Document) -> float:
    return sum(seconds or 0.0 for _, seconds, _ in timing_rows(report))


def shares(report: Document) -> list[tuple[str, float | None]]:
    """The edited share of the model, three ways and of all components."""
    return [
        (f"of {what}", report.number("share", what))
        for what in ("parameters", "neurons", "heads", "components")
        if report.number("share", what) is not None
    ]


def pivot_facts(report: Document) -> list[tuple[str, str, str]]:
    """(what, figure, meaning) of how well the pivots match the planted ones; empty where none were planted."""
    planted = report.section("pivots", "planted")
    if not planted:
        return []
    total, found = planted.count("planted"), planted.count("found")
    return [
        ("precision", formats.percent(planted.number("precision")),
         f"of {formats.count(found)} pivots on problems with planted wrong moves, those that are the planted one"),
        ("recall", formats.percent(planted.number("recall")),
         f"of {formats.count(total)} problems with planted wrong moves, those whose planted pivot was found"),
        ("right place", formats.percent(planted.number("precision_of_place")),
         "pivots at a planted place, whatever their two tokens"),
    ]  # fmt: skip


def control_summary(report: Document) -> tuple[int, float | None, float | None] | None:
    """(draws, median gain in points, median drift) of the random circuits."""
    random = report.section("controls", "random")
    if not random:
        return None
    draws = random.rows("draws")
    gains = [gain for draw in draws if (gain := draw.number("gain", "points")) is not None]
    drifts = [drift for draw in draws if (drift := draw.number("drift", "kl")) is not None]
    gain = random.number("gain", "points")
    drift = random.number("drift", "kl")
    return (
        len(draws),
        median(gains) if gain is None and gains else gain,
        median(drifts) if drift is None and drifts else drift,
    )


def plan_held(report: Document) -> str | None:
    """The run against its plan: as it stood, and for the steps that were taken. Memory: of the stage that had most."""
    total, stages = report.section("plan", "total"), report.sections("plan")
    planned = total.number("seconds", "planned")
    if planned is None:
        return None
    peaks = [stage.section("peak_cpu_bytes") for stage in stages.values()]
    most = max(peaks, key=lambda peak: peak.number("happened") or 0.0)
    told = formats.times(
        (total.number("seconds", "ratio"), f"planned {formats.duration(planned)}"),
        (total.number("tokens", "ratio"), "tokens"),
        (most.number("ratio"), "memory"),
    )
    steps = [stage.section("steps") for stage in stages.values() if stage.section("steps")]
    if not steps:
        return told
    taken, expected = (sum(own.count(key) or 0 for own in steps) for key in ("happened", "planned"))
    for_steps = formats.times(
        (total.number("seconds_for_steps", "ratio"), "time"),
        (total.number("tokens_for_steps", "ratio"), "tokens"),
    )
    return f"{told}; for the {taken} steps it took, {expected} expected: {for_steps}"


def _control(name: str, detail: str, control: Document, base: float | None) -> ResultRow:
    gain, drift = control.section("gain"), control.number("drift", "kl")
    return _compared("control", name, detail, gain, base, control.number("patched", "accuracy"), drift)


def _compared(
    group: str, name: str, detail: str, gain: Document, base: float | None, patched: float | None,
    drift: float | None = None,
) -> ResultRow:  # fmt: skip
    points, ends = gain.number("points"), gain.interval("interval")
    return ResultRow(group, name, detail, base, patched, points, ends, gain.number("p_value"), drift)


def _problems(problems: int | None, templates: int | None = None) -> str:
    if problems is None:
        return ""
    words = formats.counted(problems, "problem")
    return f"{words} in {formats.counted(templates, 'template')}" if templates else words
