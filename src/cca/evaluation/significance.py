"""Intervals and tests for paired results whose problems come in clusters (templates).

Problems of one template are not independent, so intervals treat whole templates as the sample: Student's t with one
degree of freedom less than there are templates, and the cluster-robust variance of the mean, sum u_g^2 / n^2 of the
templates' summed deviations u_g, corrected for few templates. The usual correction G / (G - 1) and HC3's, its square
(Cameron and Miller 2015), cover too little where templates' gains are skewed, so it is the cube.
An accuracy has Wilson's interval at the sample size that this variance amounts to, which stays right near 0 and 1.

Floors hold where templates happen to agree: the interval of independent problems; for gains also the rule of three
(of n problems without an event, at most 3 / n are events; Hanley and Lippman-Hand 1983) and, since two or three
templates of two kinds are often all of one, an intraclass correlation of at least 1 / (G - 1).

`python -m benchmarks coverage` simulates evaluations and prints how often these intervals cover the truth. With 1,000
trials a row, 2 to 24 templates of 10 or 100 problems each, those of gains cover it in 0.937 to 1.000 of the trials
where gains are skewed or of two kinds, those of accuracies in 0.954 to 0.990. No interval can know of a kind of
template that is rare and was not drawn: where three templates in ten gain, 0.911 to 1.000 are covered.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import product
from typing import Any

import numpy as np
from scipy.stats import binomtest
from scipy.stats import t as student

Clusters = Sequence[Any] | np.ndarray
"""The template of each problem."""
LEVEL = 0.95
RULE_OF_THREE = 3.0
ENOUGH_TO_FLIP = 6
"""Fewest clusters for a sign-flip test: with fewer it could not get below p = 0.05."""
MOST_ENUMERATED = 14
"""Most clusters of which all signs are tried; of more, `FLIPS` at random."""
FLIPS = 9_999


def gain_interval(changes: Sequence[float] | np.ndarray, clusters: Clusters) -> tuple[float, float]:
    """95 % interval of the mean of ``changes``, one per problem in [-1, 1], when whole clusters vary.

    With one cluster it is an interval over its problems: it says nothing of other clusters.
    """
    numbers = np.asarray(changes, dtype=float)
    mean, count = float(numbers.mean()), len(numbers)
    halves = (_quantile(freedom) * variance**0.5 for variance, freedom in _gain_variances(numbers, clusters))
    half = max(*halves, RULE_OF_THREE / count)
    return max(-1.0, mean - half), min(1.0, mean + half)


def paired_gain_interval(base: Sequence[float], patched: Sequence[float], clusters: Clusters) -> tuple[float, float]:
    """`gain_interval` of mean(patched) - mean(base), as fractions. Right and wrong are 1 and 0."""
    return gain_interval(np.asarray(patched, dtype=float) - np.asarray(base, dtype=float), clusters)


def mean_interval(means: Sequence[float], ends: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """95 % interval of the mean of ``means`` in [-1, 1] of independent units (models), with each unit's own interval.

    One unit has its own. Several have Student's t over the units, and at least the width that their own leave open.
    """
    if len(means) == 1:
        return ends[0]
    # an end that was cut off at -1 or 1 says less than the other one
    own = [max(high - mean, mean - low) for mean, (low, high) in zip(means, ends, strict=True)]
    count, mean = len(means), float(np.mean(means))
    half = max(half_width(means), float(np.linalg.norm(own)) / count)
    return max(-1.0, mean - half), min(1.0, mean + half)


def half_width(values: Sequence[float] | np.ndarray) -> float:
    """Half of Student's 95 % interval of the mean of two or more independent ``values``."""
    return _quantile(len(values) - 1) * float(np.std(values, ddof=1)) / len(values) ** 0.5


def accuracy_interval(right: Sequence[float] | Sequence[bool], clusters: Clusters) -> tuple[float, float]:
    """95 % interval of the fraction of right answers when whole clusters vary."""
    numbers = np.asarray(right, dtype=float)
    mean = float(numbers.mean())
    count, spreads = len(numbers), _variances(numbers, clusters)
    ends = [_wilson(mean, variance, _quantile(freedom)) for variance, freedom in spreads]
    ends.append(_wilson(mean, mean * (1 - mean) / count, _quantile(count - 1), count))
    return max(0.0, min(low for low, _ in ends)), min(1.0, max(high for _, high in ends))


def cluster_p(base: Sequence[float], patched: Sequence[float], clusters: Clusters, seed: int = 0) -> float:
    """Two-sided p-value of the paired gain when whole clusters vary.

    From `ENOUGH_TO_FLIP` clusters on, a sign-flip test: under no effect each cluster's change could as well have had
    the other sign. With fewer, Student's t as in the interval. One cluster: its problems take the clusters' place.
    """
    difference = np.asarray(patched, dtype=float) - np.asarray(base, dtype=float)
    if not difference.any():
        return 1.0
    sums = _sums(difference, clusters)[0]
    if len(sums) == 1:
        sums = difference
    if len(sums) >= ENOUGH_TO_FLIP:
        return _sign_flip_p(sums[sums != 0], seed)
    mean = abs(float(difference.mean()))
    return max(
        2 * float(student.sf(mean / np.sqrt(variance), freedom)) if variance else 0.0
        for variance, freedom in _gain_variances(difference, clusters)
    )


def mcnemar_p(base: Sequence[bool], patched: Sequence[bool]) -> float:
    """Exact two-sided McNemar test, as if problems were independent.

    It is the p-value of the observed split of the problems on which the two models disagree.
    """
    pairs = list(zip(base, patched, strict=True))
    gained = sum(after and not before for before, after in pairs)
    lost = sum(before and not after for before, after in pairs)
    return float(binomtest(gained, gained + lost, 0.5).pvalue) if gained + lost else 1.0


@cache
def _quantile(freedom: int) -> float:
    return float(student.ppf((1 + LEVEL) / 2, max(1, freedom)))


def _gain_variances(numbers: np.ndarray, clusters: Clusters) -> Iterator[tuple[float, int]]:
    """`_variances`, and where there are several clusters that of two kinds of them."""
    yield from _variances(numbers, clusters)
    groups = len(set(clusters))
    if groups > 1:
        yield float(numbers.var(ddof=1)) / (groups * (groups - 1)), len(numbers) - 1


def _variances(numbers: np.ndarray, clusters: Clusters) -> Iterator[tuple[float, int]]:
    """(variance of the mean, degrees of freedom): with independent problems, and with independent clusters."""
    count = len(numbers)
    yield float(numbers.var(ddof=1) / count) if count > 1 else 0.0, max(1, count - 1)
    sums, counts = _sums(numbers, clusters)
    groups = len(sums)
    if groups > 1:
        deviations = sums - counts * numbers.mean()
        yield float((groups / (groups - 1)) ** 3 * (deviations**2).sum() / count**2), groups - 1


def _sums(numbers: np.ndarray, clusters: Clusters) -> tuple[np.ndarray, np.ndarray]:
    """(sum, count) of each cluster."""
    _, labels = np.unique(np.asarray(clusters), return_inverse=True)
    return np.bincount(labels, weights=numbers), np.bincount(labels).astype(float)


def _wilson(fraction: float, variance: float, quantile: float, count: float = np.inf) -> tuple[float, float]:
    """Wilson's interval at the sample size that ``variance`` amounts to, or ``count`` where it is zero."""
    size = fraction * (1 - fraction) / variance if variance > 0 else count
    if not np.isfinite(size):
        return (fraction, fraction)  # clusters that agree to the digit: the floor of independent problems decides
    extra = quantile**2 / size
    centre = (fraction + extra / 2) / (1 + extra)
    half = quantile / (1 + extra) * float(np.sqrt(fraction * (1 - fraction) / size + extra / (4 * size)))
    return centre - half, centre + half


def _sign_flip_p(sums: np.ndarray, seed: int) -> float:
    """p-value of |sum| when the sign of every term is a coin flip."""
    if not len(sums):
        return 1.0
    observed = abs(sums.sum()) - 1e-9
    if len(sums) <= MOST_ENUMERATED:
        signs = np.array(list(product((-1.0, 1.0), repeat=len(sums))))
        return float((abs(signs @ sums) >= observed).mean())
    signs = np.random.default_rng(seed).choice((-1.0, 1.0), size=(FLIPS, len(sums)))
    return float((1 + (abs(signs @ sums) >= observed).sum()) / (1 + FLIPS))
