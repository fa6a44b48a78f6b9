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


def model_cells(result: Row, model: str) -> Cells:
    arms = [(arm, [run for run in arm["runs"] if run["model"] == model]) for arm in result["arms"]]
    tested = any(run["test"] for _, runs in arms for run in runs)
    heading = (
        "arm", "trained", "gain in budget", "drift there", "best gain", "drift there",
        f"reach gain of {formats.label(result['reference'], 24)}", "drift there", "over its drift",
    )  # fmt: skip
    if tested:
        heading += ("test, in budget", "95 % interval", "worst other skill")
    reference = [
        run
        for arm, runs in arms
        if arm["entry"] == result["reference"] and arm["control"] is None
        for run in runs
    ]
    own = {run["seed"]: run["matched"]["reference"] for run in reference}
    return Cells(heading, tuple(_cells(arm, runs, own, tested) for arm, runs in arms if runs))


def _cells(arm: Row, runs: Sequence[Row], own: Mapping[int, Row | None], tested: bool) -> tuple[str, ...]:
    def middle(value: Callable[[Row], float]) -> float:
        return median(value(run) for run in runs)

    reached = [run for run in runs if run["matched"]["reference"] is not None]
    ratios = [
        run["matched"]["reference"]["drift"] / max(under["drift"], SMALLEST)
        for run in reached
        if (under := own.get(run["seed"])) is not None
    ]
    cells = (
        formats.label(arm["label"], 80),
        formats.share(middle(lambda run: run["share"])),
        formats.points(middle(lambda run: run["best"]["points"])),
        formats.nats(middle(lambda run: run["best"]["drift"])),
        formats.points(middle(lambda run: run["any"]["points"])),
        formats.nats(middle(lambda run: run["any"]["drift"])),
        f"{len(reached)} of {sum(run['asked']['reference'] for run in runs)}",
        formats.nats(median(run["matched"]["reference"]["drift"] for run in reached) if reached else None),
        f"{formats.significant(median(ratios))}x" if ratios else formats.UNKNOWN,
    )
    return cells + (_tested([run["test"]["best"] for run in runs if run["test"]]) if tested else ())


def _tested(tests: Sequence[Row]) -> tuple[str, ...]:
    """The median gain on the test split; the interval over its templates where there is one run."""
    if not tests:
        return (formats.UNKNOWN,) * 3
    worst = [
        min((100 * (skill["patched"] - skill["base"]) for skill in test["retention"].values()), default=0.0)
        for test in tests
    ]
    only = tuple(tests[0]["gain"]["interval"]) if len(tests) == 1 else None
    gain = median(test["gain"]["points"] for test in tests)
    return formats.points(gain), formats.interval(only), formats.points(min(worst))
