"""Paired runs: naive and ours in turn, so that whatever slows the machine slows both; and rows of results."""

from __future__ import annotations

import operator
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Run = Callable[[], object]


@dataclass(frozen=True)
class Measured:
    """Some quotients of paired runs."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def __str__(self) -> str:
        if len(self.values) == 1:
            return _short(self.median)
        low, high = min(self.values), max(self.values)
        return f"{_short(self.median)} ({_short(low)} to {_short(high)}, {len(self.values)} pairs)"


@dataclass(frozen=True)
class Row:
    """One claim. ``reach`` is compared with the median; ``details`` says what was run and what was equal."""

    what: str
    against: str
    measured: Measured
    reach: tuple[str, float] | None
    details: str
    sound: bool = True
    """Whether both gave the same result; a fast wrong answer is no pass."""

    @property
    def verdict(self) -> str:
        if not self.sound:
            return "DIFFERENT RESULTS"
        if self.reach is None:
            return "for comparison"
        sign, bound = self.reach
        compare = operator.ge if sign == ">=" else operator.le
        return "PASS" if compare(self.measured.median, bound) else "short of"

    @property
    def aim(self) -> str:
        return f"{self.reach[0]} {_short(self.reach[1])}" if self.reach else ""


def cca(*arguments: str) -> None:
    """The command line of this environment, as a user runs it."""
    command = [sys.executable, "-c", "from cca.cli import main; main()", *arguments]
    subprocess.run(command, check=True, capture_output=True)


def seconds(run: Run, times: int = 1) -> float:
    """Mean wall-clock seconds of ``times`` runs."""
    start = time.perf_counter()
    for _ in range(times):
        run()
    return (time.perf_counter() - start) / times


def quotients(above: Run, below: Run, pairs: int, above_times: int = 1, below_times: int = 1) -> Measured:
    """Seconds of ``above`` over seconds of ``below``, in turn, each warmed up once where it is cheap to repeat."""
    for run, times in ((above, above_times), (below, below_times)):
        if times > 1:
            run()
    return Measured(tuple(seconds(above, above_times) / seconds(below, below_times) for _ in range(pairs)))


def table(rows: Sequence[Row], markdown: bool) -> str:
    head = ("what", "against", "reach", "median (min to max)", "verdict", "details")
    body = [(r.what, r.against, r.aim, str(r.measured), r.verdict, r.details) for r in rows]
    if markdown:
        lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
        return "\n".join(lines + ["| " + " | ".join(cells) + " |" for cells in body])
    return "\n".join(
        f"{what}\n    against {against}: {measured}  [{aim}]  {verdict}\n    {details}"
        for what, against, aim, measured, verdict, details in body
    )


def _short(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"
