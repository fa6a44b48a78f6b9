"""The rows of all arms combined over models, seeds and draws.

Each arm is shown at its best validated step inside the budget, at its best step at any cost, and at matched gain.
Ratios of drift at matched gain are taken within a model and seed, against the reference arm, and then combined.
Seeds and draws of one model are no independent runs: they are averaged, and models are the independent units.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean, median
from typing import Any

from cca.compare.config import CompareConfig
from cca.compare.gains import SMALLEST, Run, by_model, gains, geometric_interval, geometric_mean, mean_of_models
from cca.compare.results import (
    ArmResult,
    Comparison,
    CurvePoint,
    Failure,
    Matched,
    Point,
    Ratio,
    RunResult,
    Summary,
    SummaryDrift,
    SummaryGain,
    Tests,
    TestSummary,
    WorstSkill,
)
from cca.files import Row
from cca.runs.folder.provenance import versions

Step = Mapping[str, Any]
Goals = dict[Run, dict[str, float | None]]
"""Of each model and seed: target name -> validation accuracy to reach."""
GAINS = tuple(2.5 * step for step in range(1, 17))
"""Gains, in points, at which the cost of an arm is shown."""


def combined(config: CompareConfig, rows: Sequence[Row]) -> Comparison:
    """What compare.json holds."""
    goals = _goals(config, rows)
    by_label: dict[str, list[Row]] = {}
    for row in rows:
        by_label.setdefault(row["label"], []).append(row)
    reference = next((own for own in by_label.values() if _is_reference(config, own[0])), [])
    runs = {(row["model"], row["seed"]): row for row in reference if row["failed"] is None}
    arms = [_arm(own, goals, {} if own is reference else runs) for own in by_label.values()]
    own = next((arm for arm in arms if arm.entry == config.reference and arm.control is None), None)
    if own is not None:
        arms = [_with_ratios(arm, own) for arm in arms]
    sound = {arm.label: (arm, arm.any) for arm in arms if arm.any is not None}
    costs = {
        "drift": {label: best.drift.mean for label, (_, best) in sound.items() if best.drift.mean is not None},
        "parameters": {label: arm.share or 0.0 for label, (arm, _) in sound.items()},
        "seconds": {label: best.seconds for label, (_, best) in sound.items()},
    }
    return Comparison(
        config=config.model_dump(mode="json"),
        reference=config.reference,
        targets=(*(_points_name(points) for points in config.matched.points), "reference"),
        arms=tuple(arms),
        pareto={
            what: tuple(frontier({label: (sound[label][1].gain.points, each) for label, each in cost.items()}))
            for what, cost in costs.items()
        },
        versions=versions(),
    )


def first_reaching(history: Sequence[Step], accuracy: float) -> Step | None:
    """The first step after the untouched model whose validation accuracy is at least ``accuracy``."""
    return next((step for step in history if step["step"] and step["accuracy"] >= accuracy - 1e-12), None)


def best_step(history: Sequence[Step], within_budget: bool = True) -> Step:
    """The most accurate step (of equals the one that drifted least), the untouched model included."""
    allowed = [step for step in history if step["in_budget"] or not within_budget or not step["step"]]
    return max(allowed, key=lambda step: (step["accuracy"], -(step["drift"] or 0.0)))


def frontier(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Names of (gain, cost) that no other beats: at least the gain for at most the cost, one of them better."""

    def beaten(gain: float, cost: float) -> bool:
        return any(other[0] >= gain and other[1] <= cost and other != (gain, cost) for other in points.values())

    return sorted((name for name in points if not beaten(*points[name])), key=lambda name: points[name][1])


def cost_curve(histories: Sequence[Sequence[Step]]) -> list[CurvePoint]:
    """For growing gains over step 0: median drift and seconds over the runs that reach it, and how many do.

    Ends at the last gain that at least half of the runs reach: beyond it the median would be one of the lucky.
    """
    curve = []
    for gain in GAINS:
        reached = [
            step
            for history in histories
            if (step := first_reaching(history, history[0]["accuracy"] + gain / 100)) is not None
        ]
        if 2 * len(reached) < len(histories) or not reached:
            break
        drifts = [step["drift"] for step in reached if step["drift"] is not None]
        seconds = median(step["seconds"] for step in reached)
        drift = median(drifts) if drifts else None
        curve.append(CurvePoint(points=gain, drift=drift, seconds=seconds, reached=len(reached)))
    return curve


def _goals(config: CompareConfig, rows: Sequence[Row]) -> Goals:
    goals: Goals = {}
    for row in rows:
        if row["failed"] is not None:
            continue
        base = row["history"][0]["accuracy"]
        fixed = {_points_name(points): base + points / 100 for points in config.matched.points}
        own = goals.setdefault((row["model"], row["seed"]), {**fixed, "reference": None})
        if _is_reference(config, row) and own["reference"] is None:
            best = best_step(row["history"])
            own["reference"] = best["accuracy"] if best["step"] else None
    return goals


def _is_reference(config: CompareConfig, row: Row) -> bool:
    return row["entry"] == config.reference and row["control"] is None


def _points_name(points: float) -> str:
    return f"+{points:g} points"


def _arm(rows: Sequence[Row], goals: Goals, reference: Mapping[Run, Row]) -> ArmResult:
    """One arm: its runs, and their summary. ``reference`` has the runs that it is held against."""
    first, sound = rows[0], [row for row in rows if row["failed"] is None]
    runs = tuple(_run(row, goals[row["model"], row["seed"]]) for row in sound)
    failed = [row for row in rows if row["failed"] is not None]
    arm = ArmResult(
        **{key: first[key] for key in ("label", "entry", "control")},
        failed=tuple(Failure(**{key: row[key] for key in ("model", "seed", "draw", "failed")}) for row in failed),
        runs=runs,
    )
    if not runs:
        return arm

    def summary(name: str) -> Summary:
        found = gains(sound, reference, lambda row: row["templates"][name])
        return _summary([run.model for run in runs], [getattr(run, name) for run in runs], *found)

    return arm.model_copy(
        update={
            "share": mean(run.share for run in runs),
            "components": mean(run.components or 0 for run in runs) if runs[0].components else None,
            "pivots": mean(row["pivots"] for row in sound),
            "best": summary("best"),
            "any": summary("any"),
            "matched": {name: _matched(runs, name) for name in runs[0].matched},
            "test": Tests(best=_tested(sound, reference, "best"), any=_tested(sound, reference, "any")),
            "curve": tuple(cost_curve([row["history"] for row in sound])),
        }
    )


def _run(row: Row, goals: Mapping[str, float | None]) -> RunResult:
    history, circuit = row["history"], row["circuit"]
    reached = {name: None if goal is None else first_reaching(history, goal) for name, goal in goals.items()}
    return RunResult(
        **{key: row[key] for key in ("model", "seed", "draw", "base", "pivots", "coefficient") if key in row},
        share=row["parameters"] / row["total_parameters"],
        components=circuit["components"] if circuit else None, circuit=circuit,
        best=_point(best_step(history), row), any=_point(best_step(history, within_budget=False), row),
        matched={name: None if step is None else _point(step, row) for name, step in reached.items()},
        asked={name: goal is not None for name, goal in goals.items()}, steps=len(history) - 1,
        test=row["test"],
    )  # fmt: skip


def _point(step: Step, row: Row) -> Point:
    """One step of one run: its gain, and its cost up to there."""
    return Point(
        **{key: step[key] for key in ("step", "accuracy", "drift", "drifts", "in_budget", "tokens")},
        points=100 * (step["accuracy"] - row["history"][0]["accuracy"]),
        seconds=row["seconds"]["locate"] + step["seconds"],
    )


def _summary(
    models: Sequence[str], points: Sequence[Point], gain: SummaryGain | None = None, over: SummaryGain | None = None
) -> Summary:
    """Mean gain and geometric mean drift."""
    drifts = by_model(models, [point.drift for point in points])
    return Summary(
        gain=gain or SummaryGain(points=mean_of_models(models, [point.points for point in points])),
        over=over,
        drift=SummaryDrift(
            mean=geometric_mean([geometric_mean(own) for own in drifts]), interval=geometric_interval(drifts)
        ),
        step=median(point.step for point in points),
        seconds=median(point.seconds for point in points),
        tokens=median(point.tokens for point in points),
    )


def _matched(runs: Sequence[RunResult], name: str) -> Matched:
    reached = [(run.model, point) for run in runs if (point := run.matched[name]) is not None]
    models, points = [model for model, _ in reached], [point for _, point in reached]
    known = dict(_summary(models, points)) if reached else {}
    known.pop("over", None)
    return Matched(reached=len(reached), of=sum(run.asked[name] for run in runs), **known)


def _tested(rows: Sequence[Row], reference: Mapping[Run, Row], name: str) -> TestSummary | None:
    rows = [row for row in rows if row["test"]]
    if not rows:
        return None
    models, tests = [row["model"] for row in rows], [row["test"][name] for row in rows]
    gain, over = gains(rows, reference, lambda row: row["test"] and row["test"][name]["templates"])
    drifts = by_model(models, [test["drift"] for test in tests])
    unseen = [test["unseen"]["points"] for test in tests if test["unseen"]]
    return TestSummary(
        gain=gain or SummaryGain(points=mean_of_models(models, [test["gain"]["points"] for test in tests])),
        over=over,
        unseen=SummaryGain(points=mean(unseen)) if unseen else None,
        drift=geometric_mean([geometric_mean(own) for own in drifts]),
        worst_skill=_worst_skill([skill for test in tests for skill in test["retention"].values()]),
        runs=len(tests),
    )


def _worst_skill(skills: Sequence[Row]) -> WorstSkill:
    worst = min(skills, key=lambda skill: skill["patched"] - skill["base"], default=None)
    if worst is None:
        return WorstSkill(points=0.0)
    unmoved = all(skill.get("gained") == skill.get("lost") == 0 for skill in skills)
    return WorstSkill(
        points=100 * (worst["patched"] - worst["base"]),
        interval=worst.get("interval"),
        unmoved=min(skill["problems"] for skill in skills) if unmoved else None,
    )


def _with_ratios(arm: ArmResult, reference: ArmResult) -> ArmResult:
    """Drift at matched gain over the reference arm's, within model and seed; of several draws the median."""
    matched: dict[str, Matched] = {}
    for name, found in arm.matched.items():
        drifts = _all_drifts(arm, name)
        ratios = [
            median(drifts[run]) / max(median(under), SMALLEST)
            for run, under in _all_drifts(reference, name).items()
            if run in drifts
        ]
        ratio = Ratio(median=median(ratios), low=min(ratios), high=max(ratios)) if ratios else None
        matched[name] = found.model_copy(update={"ratio": ratio})
    return arm.model_copy(update={"matched": matched})


def _all_drifts(arm: ArmResult, name: str) -> dict[Run, list[float]]:
    found: dict[Run, list[float]] = {}
    for run in arm.runs:
        point = run.matched[name]
        if point is not None and point.drift is not None:
            found.setdefault((run.model, run.seed), []).append(point.drift)
    return found
