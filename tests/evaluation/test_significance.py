from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from cca.evaluation.significance import cluster_interval, mcnemar_p, paired_gain_interval


def test_mcnemar_is_the_exact_binomial_test() -> None:
    base = [True] * 3 + [False] * 12 + [True] * 50
    patched = [False] * 3 + [True] * 12 + [True] * 50
    assert mcnemar_p(base, patched) == pytest.approx(2 * binom.cdf(3, 15, 0.5))
    assert mcnemar_p(base, base) == 1.0


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for trial in range(60):
        effects = generator.normal(0.1, 0.2, size=40)
        clusters = [f"t{i}" for i in range(40) for _ in range(10)]
        values = np.repeat(effects, 10) + generator.normal(0, 0.3, size=400)
        low, high = cluster_interval(values, clusters, seed=trial)
        covered += low <= 0.1 <= high
    assert 50 <= covered <= 60  # 95 % of 60 is 57; ignoring clusters would cover about 35


def test_clusters_widen_the_interval() -> None:
    base = [False] * 100
    patched = [i < 50 for i in range(100)]  # templates 0-4 all gained, 5-9 none
    clustered = paired_gain_interval(base, patched, [f"t{i // 10}" for i in range(100)])
    independent = paired_gain_interval(base, patched, ["one"] * 100)
    assert clustered[1] - clustered[0] > 2 * (independent[1] - independent[0])
    assert clustered[0] < 0.5 < clustered[1]


def test_a_seed_gives_the_same_interval() -> None:
    values, clusters = [0.0, 1.0, 1.0, 0.0, 1.0], list("aabbc")
    assert cluster_interval(values, clusters, 4) == cluster_interval(values, clusters, 4)
