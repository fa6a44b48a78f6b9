"""compare.json: the rows of all arms combined over models, seeds and draws.

Each arm is told at its best validated step inside the budget, at its best step whatever it cost, and at matched gain.
Ratios of drift at matched gain are taken within a model and seed, against the reference arm, and then combined.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, median
from typing import Any

from cca.compare.config import CompareConfig
from cca.compare.intervals import SMALLEST, gain_interval, geometric_interval, geometric_mean
from cca.compare.matched import Step, best_step, first_reaching
from cca.compare.pareto import cost_curve, frontier
from cca.files import Row
from cca.runs.folder.provenance import versions

FORMAT, VERSION = "cca.compare", 1
Run = tuple[str, int]  # model, seed


def combined(config: CompareConfig, rows: Sequence[Row]) -> Row:
    """What compare.json holds."""
    goals = _goals(config, rows)
    labels = list(dict.fromkeys(row["label"] for row in rows))
    arms = [_arm([row for row in rows if row["label"] == label], goals) for label in labels]
    _add_ratios(arms, config.reference)
    for arm in arms:
        for run in arm["runs"]:
            del run["history"]
    gains = {arm["label"]: arm["any"]["gain"]["points"] for arm in arms if arm["any"]}
    costs = {
        "drift": {arm["label"]: arm["any"]["drift"]["mean"] for arm in arms if arm["any"]},
        "parameters": {arm["label"]: arm["share"] for arm in arms if arm["any"]},
        "seconds": {arm["label"]: arm["any"]["seconds"] for arm in arms if arm["any"]},
    }
    return {
        "format": FORMAT,
        "version": VERSION,
        "config": config.model_dump(mode="json"),
        "reference": config.reference,
        "targets": [*(_points_name(points) for points in config.matched.points), "reference"],
        "arms": arms,
        "pareto": {
            what: frontier({label: (gains[label], cost[label]) for label in gains})
            for what, cost in costs.items()
        },
        "versions": versions(),
    }


Goals = dict[Run, dict[str, float | None]]
"""Of each model and seed: target name -> validation accuracy to reach."""


def _goals(config: CompareConfig, rows: Sequence[Row]) -> Goals:
    goals: Goals = {}
    for row in rows:
        run = (row["model"], row["seed"])
        if row["failed"] is None and run not in goals:
            base = row["history"][0]["accuracy"]
            goals[run] = {_points_name(points): base + points / 100 for points in config.matched.points}
            goals[run]["reference"] = None
    for row in rows:
        run = (row["model"], row["seed"])
        is_reference = row["entry"] == config.reference and row["control"] is None
        if is_reference and row["failed"] is None and goals[run]["reference"] is None:
            best = best_step(row["history"])
            goals[run]["reference"] = best["accuracy"] if best["step"] else None
    return goals


def _points_name(points: float) -> str:
    return f"+{points:g} points"


def _arm(rows: Sequence[Row], goals: Goals) -> Row:
    """One arm: its runs, and what they come to."""
    first, sound = rows[0], [row for row in rows if row["failed"] is None]
    runs = [_run(row, goals[row["model"], row["seed"]]) for row in sound]
    known = {key: first[key] for key in ("label", "entry", "control")}
    failed = [
        {key: row[key] for key in ("model", "seed", "draw", "failed")}
        for row in rows
        if row["failed"] is not None
    ]
    arm: Row = {**known, "failed": failed, "runs": runs}
    if not runs:
        return {
            **arm,
            "any": None,
            "best": None,
            "matched": {},
            "test": {"best": None, "any": None},
            "share": None,
            "curve": [],
        }
    names = list(runs[0]["matched"])
    return {
        **arm,
        "share": mean(run["share"] for run in runs),
        "components": mean(run["components"] for run in runs) if runs[0]["components"] else None,
        "pivots": mean(row["pivots"] for row in sound),
        "best": _summary([run["best"] for run in runs], [row["templates"]["best"] for row in sound]),
        "any": _summary([run["any"] for run in runs], [row["templates"]["any"] for row in sound]),
        "matched": {name: _matched([run["matched"][name] for run in runs], runs, name) for name in names},
        "test": {
            name: _tested([row["test"][name] for row in sound if row["test"]]) for name in ("best", "any")
        },
        "curve": cost_curve([run["history"] for run in runs]),
    }


def _run(row: Row, goals: dict[str, float | None]) -> Row:
    history = row["history"]
    circuit = row["circuit"]
    return {
        **{key: row[key] for key in ("model", "seed", "draw", "base", "pivots", "coefficient") if key in row},
        "share": row["parameters"] / row["total_parameters"],
        "components": circuit["components"] if circuit else None,
        "circuit": circuit,
        "best": _point(history, best_step(history), row),
        "any": _point(history, best_step(history, within_budget=False), row),
        "matched": {
            name: None
            if goal is None or (step := first_reaching(history, goal)) is None
            else _point(history, step, row)
            for name, goal in goals.items()
        },
        "asked": {name: goal is not None for name, goal in goals.items()},
        "steps": len(history) - 1,
        "test": row["test"],
        "history": history,
    }


def _point(history: Sequence[Row], step: Step, row: Row) -> Row:
    """One step of one run: what it gained and what it cost up to there."""
    return {
        "step": step["step"],
        "points": 100 * (step["accuracy"] - history[0]["accuracy"]),
        "accuracy": step["accuracy"],
        "drift": step["drift"],
        "drifts": step["drifts"],
        "in_budget": step["in_budget"],
        "seconds": row["seconds"]["locate"] + step["seconds"],
        "tokens": step["tokens"],
    }


def _summary(points: Sequence[Row], templates: Sequence[Sequence[Row]] | None) -> Row:
    """Mean gain and geometric mean drift over runs."""
    drifts = [point["drift"] for point in points]
    interval = geometric_interval(drifts)
    gain: Row = {"points": mean(point["points"] for point in points)}
    if templates is not None:
        low, high = gain_interval([_changes(own) for own in templates])
        gain["interval"] = [100 * low, 100 * high]
    return {
        "gain": gain,
        "drift": {"mean": geometric_mean(drifts), "interval": list(interval) if interval else None},
        "step": median(point["step"] for point in points),
        "seconds": median(point["seconds"] for point in points),
        "tokens": median(point["tokens"] for point in points),
    }


def _matched(points: Sequence[Row | None], runs: Sequence[Row], name: str) -> Row:
    reached = [point for point in points if point is not None]
    asked = sum(run["asked"][name] for run in runs)
    return {"reached": len(reached), "of": asked, **(_summary(reached, None) if reached else {})}


def _tested(tests: Sequence[Row]) -> Row | None:
    if not tests:
        return None
    low, high = gain_interval([_changes(test["templates"]) for test in tests])
    worst = [
        min((100 * (skill["patched"] - skill["base"]) for skill in test["retention"].values()), default=0.0)
        for test in tests
    ]
    unseen = [test["unseen"]["points"] for test in tests if test["unseen"]]
    drifts = [test["drift"] for test in tests]
    return {
        "gain": {
            "points": mean(test["gain"]["points"] for test in tests),
            "interval": [100 * low, 100 * high],
        },
        "unseen": {"points": mean(unseen)} if unseen else None,
        "drift": geometric_mean(drifts),
        "worst_skill": {"points": min(worst)},
        "runs": len(tests),
    }


def _changes(templates: Sequence[Row]) -> list[tuple[float, int]]:
    return [((row["patched"] - row["base"]) * row["problems"], row["problems"]) for row in templates]


def _add_ratios(arms: Sequence[Row], reference: str) -> None:
    """Drift at matched gain over the reference arm's, within model and seed; of several draws the median."""
    own = next((arm for arm in arms if arm["entry"] == reference and arm["control"] is None), None)
    if own is None:
        return
    for arm in arms:
        for name, matched in arm["matched"].items():
            drifts = _all_drifts(arm, name)
            ratios = [
                median(drifts[run]) / max(median(under), SMALLEST)
                for run, under in _all_drifts(own, name).items()
                if run in drifts
            ]
            if ratios:
                matched["ratio"] = {"median": median(ratios), "low": min(ratios), "high": max(ratios)}


def _all_drifts(arm: Row, name: str) -> dict[Run, list[float]]:
    found: dict[Run, list[float]] = {}
    for run in arm["runs"]:
        point: dict[str, Any] | None = run["matched"][name]
        if point is not None:
            found.setdefault((run["model"], run["seed"]), []).append(point["drift"])
    return found
