"""Write docs/results.md from compare.json files: python docs/write_results.py --title Small runs/compare/compare.json

The prose comes from docs/results_preface.md where there is one; every number comes from the files.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from cca.compare.combine import SMALLEST
from cca.compare.page import Cells, arm_cells, markdown_table
from cca.compare.results import ArmResult, Comparison, Point, RunResult
from cca.files import write_text
from cca.reports import formats

HERE = Path(__file__).parent
PREFACE = """# Which circuit, which objective

Written by `docs/write_results.py` from the `compare.json` files of `cca compare`; nothing here is typed by hand.
"""
Row = Mapping[str, Any]
GAINS = "Gain inside the budget, in points, on the test split where it was measured (of several draws the median):"
DRIFTS = "Drift where the reference's gain is reached, over the reference's own (median of the draws that get there):"


def results_page(results: Mapping[str, Comparison], preface: str) -> str:
    """The page: ``preface`` (prose), then each comparison under its title, its tables and what wins."""
    parts = [preface.strip()]
    for title, result in results.items():
        parts += [f"## {title}", _described(result)]
        for target in result.targets:
            parts += [f"Matched at {target}:", markdown_table(arm_cells(result, target))]
        models = models_of(result)
        if len(models) > 1:
            parts += [GAINS, markdown_table(gains_by_model(result))]
            parts += [DRIFTS, markdown_table(drifts_by_model(result))]
        for model in models if len(models) > 1 else ():
            parts += [_model_heading(result, model), markdown_table(model_cells(result, model))]
        parts += [_winners(result), _failures(result.arms)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _described(result: Comparison) -> str:
    config = result.config
    models = ", ".join(formats.label(model["name"] or model["model"]) for model in config["models"])
    seeds = ", ".join(map(str, config["seeds"]))
    return f"Models: {models}. Seeds: {seeds}. Reference arm: `{formats.label(result.reference)}`."


def _model_heading(result: Comparison, model: str) -> str:
    bases = ", ".join(formats.percent(base) for base in base_of(result, model))
    return f"### {formats.label(model)}\n\nUntouched, on the validation problems that judge steps: {bases}."


def _winners(result: Comparison) -> str:
    """On how many runs each arm has the least drift at the reference's gain."""
    least: dict[tuple[str, int], tuple[float, str]] = {}
    for arm in result.arms:
        if arm.control is not None:
            continue
        for run in arm.runs:
            point = run.matched["reference"]
            where = (run.model, run.seed)
            drift = point and point.drift
            if drift is not None and (where not in least or drift < least[where][0]):
                least[where] = (drift, arm.label)
    if not least:
        return ""
    wins: dict[str, int] = {}
    for _, label in least.values():
        wins[label] = wins.get(label, 0) + 1
    told = [
        f"`{formats.label(label)}` {count}"
        for label, count in sorted(wins.items(), key=lambda item: -item[1])
    ]
    return f"Least drift at the reference's gain, of {formats.counted(len(least), 'run')}: {', '.join(told)}."


def _failures(arms: Sequence[ArmResult]) -> str:
    lines = [
        f"* `{formats.label(arm.label)}` on {formats.label(fault.model)}, seed {fault.seed}: "
        f"{formats.label(fault.failed, 200)}"
        for arm in arms
        for fault in arm.failed
    ]
    return "\n".join(["Could not be run:", "", *lines]) if lines else ""


def models_of(result: Comparison) -> list[str]:
    """The models that some arm ran on, in the order of the configuration."""
    return list(dict.fromkeys(run.model for arm in result.arms for run in arm.runs))


def base_of(result: Comparison, model: str) -> list[float]:
    """The untouched model's validation accuracy, one a seed."""
    found = {run.seed: run.base for arm in result.arms for run in arm.runs if run.model == model}
    return [found[seed] for seed in sorted(found)]


def gains_by_model(result: Comparison) -> Cells:
    """Arms by models: the gain inside the budget, on the test split where it was measured; medians over draws."""

    def cell(runs: Sequence[RunResult], _: Mapping[int, Point | None]) -> str:
        tests = [run.test["best"]["gain"]["points"] for run in runs if run.test]
        return formats.points(median(tests or [run.best.points for run in runs]))

    return _by_model(result, cell)


def drifts_by_model(result: Comparison) -> Cells:
    """Arms by models: drift at the reference's gain over the reference's, and how many runs got there if not all."""

    def cell(runs: Sequence[RunResult], own: Mapping[int, Point | None]) -> str:
        reached = sum(run.matched["reference"] is not None for run in runs)
        some = "" if reached == len(runs) else f" ({reached} of {len(runs)})"
        return _ratio(runs, own) + some

    return _by_model(result, cell)


def _by_model(
    result: Comparison, cell: Callable[[Sequence[RunResult], Mapping[int, Point | None]], str]
) -> Cells:
    models = models_of(result)
    references = {model: _reference_points(result, model) for model in models}
    rows: list[tuple[str, ...]] = []
    for arm in result.arms:
        cells = [formats.label(arm.label, 80)]
        for model in models:
            runs = [run for run in arm.runs if run.model == model]
            cells.append(cell(runs, references[model]) if runs else formats.UNKNOWN)
        rows.append(tuple(cells))
    return Cells(("arm", *(formats.label(model) for model in models)), tuple(rows))


def _reference_points(result: Comparison, model: str) -> dict[int, Point | None]:
    """seed -> where the reference reaches its own best gain inside the budget."""
    return {
        run.seed: run.matched["reference"]
        for arm in result.arms
        if arm.entry == result.reference and arm.control is None
        for run in arm.runs
        if run.model == model
    }


def _ratio(runs: Sequence[RunResult], own: Mapping[int, Point | None]) -> str:
    ratios = [
        point.drift / max(under.drift, SMALLEST)
        for run in runs
        if (point := run.matched["reference"]) is not None
        and (under := own.get(run.seed)) is not None
        and point.drift is not None
        and under.drift is not None
    ]
    return f"{formats.significant(median(ratios))}x" if ratios else formats.UNKNOWN


def model_cells(result: Comparison, model: str) -> Cells:
    arms = [(arm, [run for run in arm.runs if run.model == model]) for arm in result.arms]
    tested = any(run.test for _, runs in arms for run in runs)
    heading = (
        "arm", "trained", "gain in budget", "drift there", "best gain", "drift there",
        f"reach gain of {formats.label(result.reference, 24)}", "drift there", "over its drift",
    )  # fmt: skip
    if tested:
        heading += ("test, in budget", "95 % interval", "worst other skill")
    own = _reference_points(result, model)
    return Cells(heading, tuple(_cells(arm, runs, own, tested) for arm, runs in arms if runs))


def _cells(
    arm: ArmResult, runs: Sequence[RunResult], own: Mapping[int, Point | None], tested: bool
) -> tuple[str, ...]:
    def middle(value: Callable[[RunResult], float]) -> float:
        return median(value(run) for run in runs)

    def drift(points: Sequence[Point]) -> str:
        known = [point.drift for point in points if point.drift is not None]
        return formats.nats(median(known) if known else None)

    reached = [point for run in runs if (point := run.matched["reference"]) is not None]
    cells = (
        formats.label(arm.label, 80),
        formats.share(middle(lambda run: run.share)),
        formats.points(middle(lambda run: run.best.points)),
        drift([run.best for run in runs]),
        formats.points(middle(lambda run: run.any.points)),
        drift([run.any for run in runs]),
        f"{len(reached)} of {sum(run.asked['reference'] for run in runs)}",
        drift(reached),
        _ratio(runs, own),
    )
    return cells + (_tested([run.test["best"] for run in runs if run.test]) if tested else ())


def _tested(tests: Sequence[Row]) -> tuple[str, ...]:
    """The median gain on the test split; of the runs' intervals over its templates, the lowest and highest bounds."""
    if not tests:
        return (formats.UNKNOWN,) * 3
    worst = [
        min((100 * (skill["patched"] - skill["base"]) for skill in test["retention"].values()), default=0.0)
        for test in tests
    ]
    lows, highs = zip(*(test["gain"]["interval"] for test in tests), strict=True)
    gain = median(test["gain"]["points"] for test in tests)
    return formats.points(gain), formats.interval((min(lows), max(highs))), formats.points(min(worst))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", nargs="+", type=Path, help="compare.json files")
    parser.add_argument("--title", action="append", default=[], help="heading of each, in order")
    parser.add_argument("--out", type=Path, default=HERE / "results.md")
    given = parser.parse_args()
    preface = HERE / "results_preface.md"
    titles = [*given.title, *(path.parent.name for path in given.results[len(given.title) :])]
    found = {title: Comparison.read(path) for title, path in zip(titles, given.results, strict=True)}
    write_text(given.out, results_page(found, preface.read_text() if preface.exists() else PREFACE))


if __name__ == "__main__":
    main()
