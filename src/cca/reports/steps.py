"""What amplify did, step by step: rows for a table and panels for a plot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cca.reports import formats
from cca.reports.document import Document
from cca.reports.plots import Panel, Point


@dataclass(frozen=True)
class StepRow:
    """One validated step. ``logit_gap`` and ``objective`` are of the model that the step left, not of its result."""

    step: int
    objective: float | None
    logit_gap: float | None
    accuracy: float | None
    drift: float | None
    retention: float | None
    in_budget: bool
    best: bool


@dataclass(frozen=True)
class History:
    rows: tuple[StepRow, ...]
    best_step: int
    coefficient: float | None
    drift_budget: float | None

    @staticmethod
    def of(report: Document) -> History | None:
        """None where amplify has not run."""
        amplify = report.section("amplify")
        records = amplify.rows("history")
        if not records:
            return None
        best = amplify.count("best_step") or 0
        start = records[0].section("validation", "retention")
        rows = tuple(
            StepRow(
                step := record.count("step") or 0,
                record.number("objective"),
                record.number("logit_gap"),
                record.number("validation", "accuracy"),
                record.number("validation", "drift"),
                _worst(start, record.section("validation", "retention")),
                record.flag("validation", "in_budget") is not False,
                step == best,
            )
            for record in records
        )
        budget = report.number("config", "amplify", "budget", "drift")
        return History(rows, best, amplify.number("coefficient"), budget)

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
            Panel("drift on other skills, nats a token", self._points(lambda row: row.drift), formats.nats,
                  log=True, limit=limit),
        ]  # fmt: skip

    def _gap_steps(self) -> Sequence[int]:
        """A step's gap is measured on its way, before it moves the weights, unless even step 0 has one."""
        shift = 1 if self.rows[0].logit_gap is None else 0
        return [max(0, row.step - shift) for row in self.rows]

    def _points(self, value: Callable[[StepRow], float | None]) -> list[Point]:
        return [
            Point(row.step, found, "in" if row.in_budget else "out")
            for row in self.rows
            if (found := value(row)) is not None
        ]


def _worst(start: Document, now: Document) -> float | None:
    """The largest loss over the other skills since step 0, in points (negative: a loss)."""
    changes = [
        100 * (after - before)
        for name in start.value
        if (before := start.number(name)) is not None and (after := now.number(name)) is not None
    ]
    return min(changes, default=None)


def _whole_percent(fraction: float) -> str:
    return f"{100 * fraction:.3g}{formats.NBSP}%"
