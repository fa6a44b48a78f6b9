"""Whether 95 % intervals cover the truth 95 % of the time, in simulated evaluations of few and many templates."""

from __future__ import annotations

from benchmarks.measuring import Measured, Row
from cca.evaluation.significance import coverage_table

ENOUGH = 0.93


def measure() -> list[Row]:
    return [
        Row(
            f"coverage, {clusters} {name} templates of {problems}", f"the {what} that was simulated",
            Measured((covered,)), (">=", ENOUGH), "of 95 % intervals", covered >= ENOUGH,
        )
        for name, clusters, problems, gain, accuracy in coverage_table(trials=2000)
        for what, covered in (("gain", gain), ("accuracy", accuracy))
    ]  # fmt: skip
