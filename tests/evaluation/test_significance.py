"""Intervals that cover, and p-values that respect clusters."""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks.coverage import CLAIMED, ENOUGH, coverage_table
from scipy.stats import binom

from cca.evaluation.significance import accuracy_interval, cluster_p, gain_interval, mcnemar_p, paired_gain_interval


@pytest.mark.parametrize("name", CLAIMED)
def test_intervals_cover_the_truth_as_often_as_they_say(name: str) -> None:
    table = list(coverage_table(name))
    lines = [f"{c:>2} x {n:<3}  gain {gain:.3f}  accuracy {accuracy:.3f}" for c, n, gain, accuracy in table]
    print(f"coverage of 95 % intervals, {name} templates x problems", *lines, sep="\n")
    assert [(c, n) for c, n, _, _ in table] == [(c, n) for c in (2, 3, 6, 10, 24) for n in (10, 100)]
    assert [line for line, row in zip(lines, table, strict=True) if min(row[2:]) < ENOUGH] == []
    assert np.mean([row[2:] for row in table]) < 0.99, "intervals that always cover say nothing"


def test_templates_that_agree_do_not_give_an_interval_without_width() -> None:
    low, high = paired_gain_interval([0] * 20, [1, 0] * 10, ["a"] * 10 + ["b"] * 10)
    assert high - low > 0.3
    assert accuracy_interval([1, 0] * 10, ["a"] * 10 + ["b"] * 10)[0] < 0.35


def test_no_problem_lost_of_200_is_a_bound_of_one_and_a_half_points() -> None:
    assert gain_interval([0.0] * 200, ["a", "b"] * 100) == pytest.approx((-0.015, 0.015))
    assert accuracy_interval([True] * 200, ["a", "b"] * 100) == (pytest.approx(0.981, abs=1e-3), 1.0)


def test_intervals_stay_where_figures_can_be() -> None:
    assert gain_interval([1.0] * 4, list("aabb"))[1] == 1.0
    assert gain_interval([0.0], ["a"]) == (-1.0, 1.0)
    low, high = accuracy_interval([1, 1, 0, 0], list("aabb"))
    assert 0 <= low < 0.1
    assert 0.9 < high <= 1


def test_clusters_widen_the_interval() -> None:
    base = [False] * 100
    patched = [i < 50 for i in range(100)]  # templates 0-4 all gained, 5-9 none
    clustered = paired_gain_interval(base, patched, [f"t{i // 10}" for i in range(100)])
    independent = paired_gain_interval(base, patched, ["one"] * 100)
    assert clustered[1] - clustered[0] > 2 * (independent[1] - independent[0])
    assert clustered[0] < 0.5 < clustered[1]


def test_few_clusters_are_corrected_for() -> None:
    """Gains of 10, 0 and 0 points: sum u_g^2 / n^2 = 1 / 1350, times 1.5 ** 3 it is 0.05 ** 2."""
    low, high = gain_interval([float(i < 10) for i in range(300)], [i // 100 for i in range(300)])
    assert (low, high) == pytest.approx((1 / 30 - 4.3027 * 0.05, 1 / 30 + 4.3027 * 0.05), abs=1e-4)


def test_mcnemar_is_the_exact_binomial_test() -> None:
    base = [True] * 3 + [False] * 12 + [True] * 50
    patched = [False] * 3 + [True] * 12 + [True] * 50
    assert mcnemar_p(base, patched) == pytest.approx(2 * binom.cdf(3, 15, 0.5))
    assert mcnemar_p(base, base) == 1.0


def test_the_p_value_counts_templates_not_problems() -> None:
    base, templates = [0.0] * 100, [i // 10 for i in range(100)]
    two = [float(i < 20) for i in range(100)]  # all that was gained, in two templates
    assert mcnemar_p([False] * 100, [value == 1 for value in two]) < 1e-5
    assert cluster_p(base, two, templates) == pytest.approx(0.5)  # 2 of the 4 ways to sign two changes
    every = [float(i % 2) for i in range(100)]
    assert cluster_p(base, every, templates) == pytest.approx(2 / 2**10)
    assert cluster_p(base, base, templates) == 1.0
    assert cluster_p(base, every, [i // 50 for i in range(100)]) > 0.05, "two templates that agree may be of one kind"
    assert cluster_p(base, [1.0] * 100, [i // 50 for i in range(100)]) < 0.05


def test_p_values_are_uniform_where_nothing_changed() -> None:
    generator, small = np.random.default_rng(0), 0
    for _ in range(300):
        shift = np.repeat(generator.normal(0, 0.3, 8), 10)
        change = np.clip(np.round(shift + generator.normal(0, 0.5, 80)), -1, 1)
        small += cluster_p(np.zeros(80).tolist(), change.tolist(), np.repeat(np.arange(8), 10).tolist()) < 0.05
    assert small <= 0.05 * 300 + 12
