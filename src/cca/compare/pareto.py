"""Pareto: which arms nothing beats at both gain and cost, and how an arm's cost grows with its gain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from cca.compare.matched import Step, first_reaching

GAINS = tuple(2.5 * step for step in range(1, 17))
"""Gains, in points, at which the cost of an arm is told."""


def frontier(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Names of (gain, cost) that no other beats: at least the gain for at most the cost, one of them better."""

    def beaten(name: str) -> bool:
        gain, cost = points[name]
        return any(
            other[0] >= gain and other[1] <= cost and other != (gain, cost)
            for key, other in points.items()
            if key != name
        )

    return sorted((name for name in points if not beaten(name)), key=lambda name: points[name][1])


def cost_curve(histories: Sequence[Sequence[Step]]) -> list[dict[str, Any]]:
    """For growing gains over step 0: median drift and seconds over the runs that reach it, and how many do.

    Ends at the last gain that at least half of the runs reach: beyond it the median would be one of the lucky.
    """
    curve = []
    for gain in GAINS:
        reached = [
            step
            for history in histories
            if (step := first_reaching(history, history[0]["accuracy"] + gain / 100)) is not None
        ]
        if 2 * len(reached) < len(histories) or not reached:
            break
        curve.append(
            {
                "points": gain,
                "drift": median(step["drift"] for step in reached),
                "seconds": median(step["seconds"] for step in reached),
                "reached": len(reached),
            }
        )
    return curve
