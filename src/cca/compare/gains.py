"""What an arm gained, over the base and over another arm, with intervals.

A claim that one arm beats another is a difference paired by problem, within model and seed. Seeds and draws of one
model are no independent runs: they are averaged first, and models are the independent units. With one model its
templates are, and the interval says nothing of other models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import mean
from typing import Any

import numpy as np

from cca.compare.results import SummaryGain
from cca.evaluation.significance import gain_interval, half_width, mean_interval
from cca.files import Row

Run = tuple[str, int]  # model, seed
Records = Sequence[Mapping[str, Any]]
"""Of one run, what it did on each template."""
Changes = dict[str, list[float]]
"""By template, the change of each problem: 1 gained, -1 lost."""
SMALLEST = 1e-12
"""Drift in nats below which logarithms do not go."""


def gains(
    rows: Sequence[Row], reference: Mapping[Run, Row], records: Callable[[Row], Records | None]
) -> tuple[SummaryGain | None, SummaryGain | None]:
    """(gain over the base, gain over the reference arm), both paired by problem; None where answers are not known."""
    own: list[tuple[str, Changes | None]] = []
    over: list[tuple[str, Changes | None]] = []
    for row in rows:
        found, other = records(row), reference.get((row["model"], row["seed"]))
        own.append((row["model"], _changes(found, "before", found)))
        if other is not None and (under := records(other)) is not None:
            over.append((row["model"], _changes(under, "after", found)))
    return _over_models(own), _over_models(over)


def _changes(before: Records | None, key: str, after: Records | None) -> Changes | None:
    """From the answers under ``key`` of one run to those of another (or the same) after its edit."""
    if not before or not after or any("after" not in record for record in (*before, *after)):
        return None
    return {
        first["template"]: [int(b) - int(a) for a, b in zip(first[key], second["after"], strict=True)]
        for first, second in zip(before, after, strict=True)
    }


def _over_models(runs: Sequence[tuple[str, Changes | None]]) -> SummaryGain | None:
    """The mean change in points with its interval."""
    known = [(model, changes) for model, changes in runs if changes]
    if len(known) < len(runs) or not runs:
        return None
    means, ends = [], []
    for own in by_model([model for model, _ in known], [changes for _, changes in known]):
        # Draws answer the same problems, and seeds may: n of them are no n-fold sample, so they are averaged.
        units = [
            (template, mean(side))
            for template in dict.fromkeys(name for changes in own for name in changes)
            for side in _beside([changes.get(template, []) for changes in own])
        ]
        means.append(mean(value for _, value in units))
        ends.append(gain_interval([value for _, value in units], [template for template, _ in units]))
    low, high = mean_interval(means, ends)
    return SummaryGain(points=100 * mean(means), interval=(100 * low, 100 * high))


def _beside(runs: Sequence[Sequence[float]]) -> list[list[float]]:
    """The first values of all runs, the second ones, and so on."""
    return [[run[place] for run in runs if place < len(run)] for place in range(max(map(len, runs)))]


def by_model(models: Sequence[str], values: Sequence[Any]) -> list[list[Any]]:
    found: dict[str, list[Any]] = {}
    for model, value in zip(models, values, strict=True):
        found.setdefault(model, []).append(value)
    return list(found.values())


def mean_of_models(models: Sequence[str], values: Sequence[float]) -> float:
    return mean(mean(own) for own in by_model(models, values))


def geometric_mean(values: Sequence[float | None]) -> float | None:
    """None where a value was not measured."""
    known = [value for value in values if value is not None]
    return float(np.exp(np.log(np.maximum(known, SMALLEST)).mean())) if len(known) == len(values) else None


def geometric_interval(values: Sequence[Sequence[float | None]]) -> tuple[float, float] | None:
    """Interval of the geometric mean over models, of each its runs': Student's t on logarithms; None with one."""
    means = [geometric_mean(own) for own in values]
    if len(means) < 2 or None in means:
        return None
    logs = np.log(np.asarray(means, dtype=float))
    half = half_width(logs)
    return float(np.exp(logs.mean() - half)), float(np.exp(logs.mean() + half))
