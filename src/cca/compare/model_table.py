"""One model of a comparison, arm by arm: what each gained inside the budget and at any cost, and what it cost there.

Of several runs of an arm on the model (draws of a control, seeds) the medians are told, and how many reached the
reference's gain: those that did not have no drift there, and would only raise the median.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

from cca.compare.intervals import SMALLEST
from cca.compare.table import Cells
from cca.reports import formats

Row = Mapping[str, Any]


def models_of(result: Row) -> list[str]:
    """The models that some arm ran on, in the order of the configuration."""
    return list(dict.fromkeys(run["model"] for arm in result["arms"] for run in arm["runs"]))


def base_of(result: Row, model: str) -> list[float]:
    """The untouched model's validation accuracy, one a seed."""
    found = {
        run["seed"]: run["base"] for arm in result["arms"] for run in arm["runs"] if run["model"] == model
    }
    return [found[seed] for seed in sorted(found)]


def gains_by_model(result: Row) -> Cells:
    """Arms by models: the gain inside the budget, on the test split where it was measured; medians over draws."""

    def told(runs: Sequence[Row], _: Mapping[int, Row | None]) -> str:
        tests = [run["test"]["best"]["gain"]["points"] for run in runs if run["test"]]
        return formats.points(median(tests or [run["best"]["points"] for run in runs]))

    return _by_model(result, told)


def drifts_by_model(result: Row) -> Cells:
    """Arms by models: drift at the reference's gain over the reference's, and how many runs got there if not all."""

    def told(runs: Sequence[Row], own: Mapping[int, Row | None]) -> str:
        reached = sum(run["matched"]["reference"] is not None for run in runs)
        some = "" if reached == len(runs) else f" ({reached} of {len(runs)})"
        return _ratio(runs, own) + some

    return _by_model(result, told)


def _by_model(result: Row, told: Callable[[Sequence[Row], Mapping[int, Row | None]], str]) -> Cells:
    models = models_of(result)
    references = {model: _reference_points(result, model) for model in models}
    rows: list[tuple[str, ...]] = []
    for arm in result["arms"]:
        cells = [formats.label(arm["label"], 80)]
        for model in models:
            runs = [run for run in arm["runs"] if run["model"] == model]
            cells.append(told(runs, references[model]) if runs else formats.UNKNOWN)
        rows.append(tuple(cells))
    return Cells(("arm", *(formats.label(model) for model in models)), tuple(rows))


def _reference_points(result: Row, model: str) -> dict[int, Row | None]:
    """seed -> where the reference reaches its own best gain inside the budget."""
    return {
        run["seed"]: run["matched"]["reference"]
        for arm in result["arms"]
        if arm["entry"] == result["reference"] and arm["control"] is None
        for run in arm["runs"]
        if run["model"] == model
    }


def _ratio(runs: Sequence[Row], own: Mapping[int, Row | None]) -> str:
    ratios = [
        point["drift"] / max(under["drift"], SMALLEST)
        for run in runs
        if (point := run["matched"]["reference"]) is not None and (under := own.get(run["seed"])) is not None
    ]
    return f"{formats.significant(median(ratios))}x" if ratios else formats.UNKNOWN


def model_cells(result: Row, model: str) -> Cells:
    arms = [(arm, [run for run in arm["runs"] if run["model"] == model]) for arm in result["arms"]]
    tested = any(run["test"] for _, runs in arms for run in runs)
    heading = (
        "arm", "trained", "gain in budget", "drift there", "best gain", "drift there",
        f"reach gain of {formats.label(result['reference'], 24)}", "drift there", "over its drift",
    )  # fmt: skip
    if tested:
        heading += ("test, in budget", "95 % interval", "worst other skill")
    own = _reference_points(result, model)
    return Cells(heading, tuple(_cells(arm, runs, own, tested) for arm, runs in arms if runs))


def _cells(arm: Row, runs: Sequence[Row], own: Mapping[int, Row | None], tested: bool) -> tuple[str, ...]:
    def middle(value: Callable[[Row], float]) -> float:
        return median(value(run) for run in runs)

    reached = [run for run in runs if run["matched"]["reference"] is not None]
    cells = (
        formats.label(arm["label"], 80),
        formats.share(middle(lambda run: run["share"])),
        formats.points(middle(lambda run: run["best"]["points"])),
        formats.nats(middle(lambda run: run["best"]["drift"])),
        formats.points(middle(lambda run: run["any"]["points"])),
        formats.nats(middle(lambda run: run["any"]["drift"])),
        f"{len(reached)} of {sum(run['asked']['reference'] for run in runs)}",
        formats.nats(median(run["matched"]["reference"]["drift"] for run in reached) if reached else None),
        _ratio(runs, own),
    )
    return cells + (_tested([run["test"]["best"] for run in runs if run["test"]]) if tested else ())


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
