"""Judging the steps of an arm: validation accuracy by template, drift on every other skill, and the steps to keep.

A `StepTracker` follows one arm. It never stops an arm for its cost elsewhere (an arm is to reach the matched gain if it
can). It notes for each step whether the run's budget would have taken it, and keeps the edit of the best such step.
Budget and best step are those of `cca run`; retention accuracy is measured where it can decide: at steps that would be
the best so far.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from cca.amplify.amplify import Validation, better
from cca.amplify.settings import BudgetConfig
from cca.baselines.training import Edit
from cca.compare.config import LimitsEntry
from cca.evaluation.accuracy import Results
from cca.evaluation.answers import UNTOUCHED
from cca.evaluation.retention import judging, mean_drift
from cca.evaluation.validation import keeps_retention, make_probe
from cca.problems.task import spread
from cca.runs.open import OpenRun


class StepScores:
    """Measures every step of one model and seed. Make it while the model is untouched.

    Other skills are measured on the problems of `cca.evaluation.retention.judging`, which no arm is fitted to.
    """

    def __init__(self, session: OpenRun, limits: LimitsEntry) -> None:
        self.answering, self.max_new_tokens = session.answering, session.max_new_tokens
        self.validation = spread(session.task.validation, limits.validation)
        self.guards = {
            name: spread(judging(problems), limits.retention) for name, problems in session.task.retention.items()
        }
        self.probes = {
            name: make_probe(session.model, own, session.grader, session.note) for name, own in self.guards.items()
        }
        self.base = self.answered(UNTOUCHED)
        self.base_retention = self.retention(UNTOUCHED)

    def answered(self, weights: str | None = None) -> Results:
        return self.answering.answers(self.validation, self.max_new_tokens, weights)

    def retention(self, weights: str | None = None) -> dict[str, float]:
        found = self.answering.by_skill(self.guards, weights)
        return {name: results.accuracy for name, results in found.items()}


@dataclass(frozen=True)
class KeptStep:
    """A step worth going back to; ``edit`` is None for the untouched model."""

    validation: Validation
    results: Results
    edit: Edit | None


@dataclass
class StepTracker:
    """Call it whenever a step is to be judged, with the edit in the model. ``keep`` takes a copy of that edit."""

    scores: StepScores
    budget: BudgetConfig
    keep: Callable[[], Edit]
    seconds: float = 0.0
    """Time spent judging, which is not the arm's."""
    steps: list[dict[str, Any]] = field(default_factory=list)
    best: KeptStep | None = None
    """The best step inside the budget, as `cca run` would choose it."""
    any: KeptStep | None = None
    """The best step whatever it cost."""

    def __call__(self) -> Validation:
        """The verdict on the model as it stands. The first call is for the untouched model."""
        began = time.perf_counter()
        results = self.scores.answered()
        drifts = {name: probe.drift() for name, probe in self.scores.probes.items()}
        drift = mean_drift(self.scores.probes, drifts)
        allowed = drift is None or drift <= self.budget.drift
        hopeful = Validation(results.accuracy, drift, {}, allowed)
        retention: dict[str, float] = {}
        if self.best is None:
            retention = self.scores.base_retention
        elif better(hopeful, self.best.validation):
            retention = self.scores.retention()
            allowed = keeps_retention(self.scores.guards, self.scores.base_retention, retention, self.budget.points)
        judged = Validation(results.accuracy, drift, retention, allowed)
        free = replace(judged, in_budget=True)
        if self.any is None or better(free, self.any.validation):
            self.any = KeptStep(free, results, self.keep() if self.steps else None)
        if self.best is None or better(judged, self.best.validation):
            edit = self.any.edit if self.any.results is results else self.keep()
            self.best = KeptStep(judged, results, edit)
        self.steps.append({"accuracy": results.accuracy, "drift": drift, "drifts": drifts, "in_budget": allowed})
        self.seconds += time.perf_counter() - began
        return free
