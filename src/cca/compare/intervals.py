"""Intervals over runs (model, seed, draw) and, within each, templates: a bootstrap of both levels.

Arms are compared on few runs, so a run is resampled whole, and then the templates inside it: an interval is wide where
seeds disagree and where templates do.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

RESAMPLES = 4000
SMALLEST = 1e-12
"""Drift in nats below which logarithms do not go."""

Templates = Sequence[tuple[float, int]]
"""Of each template of a run: the sum of the problems' gains, and how many problems there are."""


def gain_interval(runs: Sequence[Templates], seed: int = 0, level: float = 0.95) -> tuple[float, float]:
    """Interval of the mean over runs of the mean gain, as fractions."""
    generator = np.random.default_rng(seed)
    drawn = np.stack([_resampled_means(run, generator) for run in runs])  # (runs, RESAMPLES)
    chosen = generator.integers(len(runs), size=(len(runs), RESAMPLES))
    # each pick of a run takes another resampling of its templates, or picks of one run would move together
    columns = np.stack([generator.permutation(RESAMPLES) for _ in runs])
    return _quantiles(drawn[chosen, columns].mean(axis=0), level)


def geometric_mean(values: Sequence[float]) -> float:
    return float(np.exp(np.mean(_logs(values))))


def geometric_interval(
    values: Sequence[float], seed: int = 0, level: float = 0.95
) -> tuple[float, float] | None:
    """Interval of the geometric mean over runs; None with fewer than two."""
    if len(values) < 2:
        return None
    generator = np.random.default_rng(seed)
    means = _logs(values)[generator.integers(len(values), size=(RESAMPLES, len(values)))].mean(axis=1)
    low, high = _quantiles(np.exp(means), level)
    return low, high


def _resampled_means(run: Templates, generator: np.random.Generator) -> np.ndarray:
    sums = np.array([total for total, _ in run], dtype=float)
    counts = np.array([count for _, count in run], dtype=float)
    drawn = generator.multinomial(len(run), np.full(len(run), 1 / len(run)), size=RESAMPLES)
    return (drawn @ sums) / (drawn @ counts)


def _logs(values: Sequence[float]) -> np.ndarray:
    return np.log(np.maximum(np.asarray(values, dtype=float), SMALLEST))


def _quantiles(values: np.ndarray, level: float) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
