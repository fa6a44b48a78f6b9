"""The steps of amplify: rows for a table and panels for a plot."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from cca.reports import formats
from cca.reports.plots import Panel, Point
from cca.reports.report import Report


@dataclass(frozen=True)
class StepRow:
    """One validated step. ``logit_gap`` and ``objective`` are of the model that the step left, not of its result."""

    step: int
    objective: float | None
    logit_gap: float | None
    accuracy: float | None
    drift: float | None
    retention: float | None
    in_budget: bool | None
    best: bool


@dataclass(frozen=True)
class History:
    rows: tuple[StepRow, ...]
    best_step: int
    coefficient: float | None
    drift_budget: float | None

    @staticmethod
    def of(report: Report) -> History | None:
        """None where amplify has not run."""
        records, best = report.amplify.history, report.amplify.best_step or 0
        if not records:
            return None
        start = records[0].validation.retention
        rows = tuple(
            StepRow(
                record.step,
                record.objective,
                record.logit_gap,
                record.validation.accuracy,
                record.validation.drift if start else None,  # without retention sets nobody measured it
                _worst(start, record.validation.retention),
                record.validation.in_budget,
                record.step == best,
            )
            for record in records
        )
        return History(rows, best, report.amplify.coefficient, report.drift_budget)

    @property
    def best(self) -> StepRow | None:
        return next((row for row in self.rows if row.best), None)

    def panels(self) -> list[Panel]:
        gaps = [
            Point(at, row.logit_gap, "in")
            for at, row in zip(self._gap_steps(), self.rows, strict=True)
            if row.logit_gap is not None
        ]
        limit = (
            (self.drift_budget, f"budget {formats.nats(self.drift_budget)}") if self.drift_budget else None
        )
        return [
            Panel("validation accuracy", self._points(lambda row: row.accuracy), _whole_percent),
            Panel("mean logit gap of the pivots, nats", gaps, formats.significant),
            Panel("drift on other skills, nats per token", self._points(lambda row: row.drift), formats.nats,
                  log=True, limit=limit),
        ]  # fmt: skip

    def _gap_steps(self) -> Sequence[int]:
        """A step's gap is measured on its way, before it moves the weights, unless even step 0 has one."""
        shift = 1 if self.rows[0].logit_gap is None else 0
        return [max(0, row.step - shift) for row in self.rows]

    def _points(self, value: Callable[[StepRow], float | None]) -> list[Point]:
        return [
            Point(row.step, found, "out" if row.in_budget is False else "in")
            for row in self.rows
            if (found := value(row)) is not None
        ]


def _worst(start: Mapping[str, float], now: Mapping[str, float]) -> float | None:
    """The largest loss over the other skills since step 0, in points (negative: a loss)."""
    return min((100 * (now[name] - before) for name, before in start.items() if name in now), default=None)


def _whole_percent(fraction: float) -> str:
    return f"{100 * fraction:.3g}{formats.NBSP}%"
