"""Judging the steps of an arm: validation accuracy by template, drift on every other skill, and what is kept of a step.

A `Judge` follows one arm. It never stops an arm for what it costs elsewhere (an arm is to reach the matched gain if it
can), but notes for each step whether the run's budget would have taken it, and keeps the edit of the best such step.
Budget and best step are those of `cca run`; retention accuracy is measured where it can decide, at steps that would be
the best so far.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from cca.amplify.amplify import Validation, better
from cca.amplify.settings import BudgetConfig
from cca.compare.config import LimitsEntry
from cca.compare.edits import Edit
from cca.evaluation.accuracy import Results
from cca.evaluation.drift import DriftProbe, solution_texts
from cca.problems.task import halves, spread
from cca.runs.folder.measurements import UNTOUCHED
from cca.runs.open import OpenRun


class Yardstick:
    """What every step of one model and seed is measured with; made while the model is untouched.

    Of each other skill's guarding half, every other problem may tell an arm what to spare (`retention_texts`) and the
    rest judges, so that no arm is judged on text it was fitted to.
    """

    def __init__(self, session: OpenRun, limits: LimitsEntry) -> None:
        self.session = session
        self.validation = spread(session.task.validation, limits.validation)
        guards = {name: halves(problems)[0] for name, problems in session.task.retention.items()}
        self.guards = {name: spread(own[1::2], limits.retention) for name, own in guards.items()}
        self.probes = {
            name: DriftProbe(session.model, solution_texts(own, session.grader))
            for name, own in self.guards.items()
        }
        self.base = self.answered(UNTOUCHED)
        self.base_retention = self.retention(UNTOUCHED)

    def answered(self, weights: str | None = None) -> Results:
        return self.session.answering.answers(self.validation, self.session.max_new_tokens, weights)

    def retention(self, weights: str | None = None) -> dict[str, float]:
        found = self.session.answering.by_skill(self.guards, weights)
        return {name: results.accuracy for name, results in found.items()}

    def drifts(self) -> dict[str, float]:
        """Mean token KL(base || now) of each other skill, in nats."""
        return {name: probe.drift() for name, probe in self.probes.items()}

    def mean_drift(self, drifts: dict[str, float]) -> float:
        tokens = {name: probe.tokens for name, probe in self.probes.items()}
        total = sum(tokens.values())
        return sum(drifts[name] * tokens[name] for name in drifts) / total if total else 0.0

    def keeps_retention(self, retention: dict[str, float], points: float) -> bool:
        """As the budget of a run counts: whole problems, one of each skill always allowed."""
        for name, own in self.guards.items():
            lost = round((self.base_retention[name] - retention[name]) * len(own))
            if lost > max(1, math.floor(points / 100 * len(own))):
                return False
        return True


@dataclass(frozen=True)
class Kept:
    """A step worth going back to; ``edit`` is None for the untouched model."""

    validation: Validation
    results: Results
    edit: Edit | None


@dataclass
class Judge:
    """Call it whenever a step is to be judged, with the edit in the model. ``keep`` takes a copy of that edit."""

    yardstick: Yardstick
    budget: BudgetConfig
    keep: Callable[[], Edit]
    seconds: float = 0.0
    """Time spent judging, which is not the arm's."""
    steps: list[dict[str, Any]] = field(default_factory=list)
    best: Kept | None = None
    """The best step inside the budget, as `cca run` would choose it."""
    any: Kept | None = None
    """The best step whatever it cost."""

    def __call__(self) -> Validation:
        """The verdict on the model as it stands. The first call is for the untouched model."""
        began = time.perf_counter()
        results = self.yardstick.answered()
        drifts = self.yardstick.drifts()
        drift = self.yardstick.mean_drift(drifts)
        allowed = drift <= self.budget.drift
        hopeful = Validation(results.accuracy, drift, {}, allowed)
        retention: dict[str, float] = {}
        if self.best is None:
            retention = self.yardstick.base_retention
        elif better(hopeful, self.best.validation):
            retention = self.yardstick.retention()
            allowed = self.yardstick.keeps_retention(retention, self.budget.points)
        judged = Validation(results.accuracy, drift, retention, allowed)
        free = replace(judged, in_budget=True)
        if self.any is None or better(free, self.any.validation):
            self.any = Kept(free, results, self.keep() if self.steps else None)
        if self.best is None or better(judged, self.best.validation):
            edit = self.any.edit if self.any.results is results else self.keep()
            self.best = Kept(judged, results, edit)
        self.steps.append(
            {"accuracy": results.accuracy, "drift": drift, "drifts": drifts, "in_budget": allowed}
        )
        self.seconds += time.perf_counter() - began
        return free
