"""How often 95 % intervals cover the truth, in simulated evaluations of few and many templates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

import numpy as np

from benchmarks.measuring import Measured, Row
from cca.evaluation.significance import accuracy_interval, gain_interval

ENOUGH, TRIALS = 0.93, 1000
CLUSTERS, SIZES = (2, 3, 6, 10, 24), (10, 100)


def two_kinds(share: float) -> Callable[[np.random.Generator, int], np.ndarray]:
    """Beta(7, 3) in this share of the templates, Beta(1, 19) in the others."""

    def draw(generator: np.random.Generator, count: int) -> np.ndarray:
        gaining = generator.random(count) < share
        return np.where(gaining, generator.beta(7, 3, count), generator.beta(1, 19, count))

    return draw


DISTRIBUTIONS: dict[str, tuple[Callable[[np.random.Generator, int], np.ndarray], float]] = {
    "skewed": (lambda generator, count: generator.beta(1.5, 3, count), 1 / 3),
    "bimodal": (two_kinds(0.5), (0.7 + 0.05) / 2),
    "three in ten": (two_kinds(0.3), 0.3 * 0.7 + 0.7 * 0.05),
}
"""Ways in which templates gain: a draw of the shares of wrong answers that become right, and its mean."""
CLAIMED = ("skewed", "bimodal")


def coverage_table(name: str, trials: int = TRIALS, seed: int = 0) -> Iterator[tuple[int, int, float, float]]:
    """(clusters, problems of each, coverage of the gain's interval, of the patched accuracy's) in a distribution.

    The base's accuracy on a template is Beta(4, 3), and of its right answers a share that is Beta(1, 20) becomes wrong.
    """
    generator, (draw, gained) = np.random.default_rng(seed), DISTRIBUTIONS[name]
    true_base, lost = 4 / 7, 1 / 21
    true_gain = (1 - true_base) * gained - true_base * lost
    for count, size in product(CLUSTERS, SIZES):
        labels = np.repeat(np.arange(count), size)
        hits = np.zeros(2)
        for _ in range(trials):
            chance = generator.random((2, count * size))
            base = chance[0] < generator.beta(4, 3, count)[labels]
            gains = chance[1] < draw(generator, count)[labels]
            losses = chance[1] < generator.beta(1, 20, count)[labels]
            patched = np.where(base, ~losses, gains)
            low, high = gain_interval(patched.astype(float) - base, labels)
            lowest, highest = accuracy_interval(patched, labels)
            hits += low <= true_gain <= high, lowest <= true_base + true_gain <= highest
        yield count, size, float(hits[0] / trials), float(hits[1] / trials)


def measure() -> list[Row]:
    return [
        Row(
            f"coverage, {clusters} {name} templates of {problems}", f"the {what} that was simulated",
            Measured((covered,)), (">=", ENOUGH) if name in CLAIMED else None, f"of 95 % intervals, {TRIALS:,} trials",
            covered >= ENOUGH or name not in CLAIMED,
        )
        for name in DISTRIBUTIONS
        for clusters, problems, gain, accuracy in coverage_table(name)
        for what, covered in (("gain", gain), ("accuracy", accuracy))
    ]  # fmt: skip
