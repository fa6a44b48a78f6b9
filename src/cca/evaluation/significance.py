"""Intervals and tests for paired results whose problems come in clusters (templates).

Problems of one template are not independent, so intervals resample templates, then problems within them stay together
(cluster bootstrap; Cameron, Gelbach and Miller 2008). The exact McNemar test asks whether the two models' disagreements
could be coin flips.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import binomtest

RESAMPLES = 10_000


def paired_gain_interval(
    base: Sequence[float],
    patched: Sequence[float],
    clusters: Sequence[str],
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Interval of mean(patched) - mean(base), as fractions, by bootstrap over clusters. Right and wrong are 1 and 0.

    With fewer than two clusters the problems themselves are resampled.
    """
    difference = np.asarray(patched, dtype=float) - np.asarray(base, dtype=float)
    return cluster_interval(difference, clusters, seed, level)


def cluster_interval(
    values: Sequence[float] | np.ndarray, clusters: Sequence[str], seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of the mean of ``values`` when whole clusters are resampled."""
    numbers = np.asarray(values, dtype=float)
    _, labels = np.unique(np.asarray(clusters), return_inverse=True)
    if labels.max(initial=0) == 0:
        labels = np.arange(len(numbers))
    sums = np.bincount(labels, weights=numbers)
    counts = np.bincount(labels).astype(float)
    generator = np.random.default_rng(seed)
    drawn = generator.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=RESAMPLES)
    means = (drawn @ sums) / (drawn @ counts)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def mcnemar_p(base: Sequence[bool], patched: Sequence[bool]) -> float:
    """Exact two-sided McNemar test: p of the observed split of the problems on which the two disagree."""
    pairs = list(zip(base, patched, strict=True))
    gained = sum(after and not before for before, after in pairs)
    lost = sum(before and not after for before, after in pairs)
    return float(binomtest(gained, gained + lost, 0.5).pvalue) if gained + lost else 1.0
