"""Judging one step of amplify on validation data: the skill, the other skills, and the drift on their solutions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Protocol

from torch import Tensor
from transformers import PreTrainedModel

from cca.amplify.amplify import Validation
from cca.evaluation.answers import UNTOUCHED, Answering, weights_key
from cca.evaluation.drift import DriftProbe
from cca.evaluation.retention import halves, judging, solution_texts
from cca.models.anatomy.weight_rows import WeightRows, get_rows
from cca.models.memory import halving
from cca.pivots.traces import Grader
from cca.problems.problem import Problem

PROBE_BATCH = 32


class Budget(Protocol):
    """How much a step may cost other skills."""

    @property
    def points(self) -> float:
        """Most points that a retention set's guarding half may lose."""
        ...

    @property
    def drift(self) -> float:
        """Most nats per token."""
        ...


class Validator:
    """Judges the model as it stands. Make it while the model is untouched; call it after each step.

    A step whose rows were judged before, by this process or by one that was killed, is not judged again.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        grader: Grader,
        answering: Answering,
        validation: Sequence[Problem],
        retention: Mapping[str, Sequence[Problem]],
        budget: Budget,
        max_new_tokens: int,
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.model, self.grader, self.answering = model, grader, answering
        self.validation, self.budget, self.max_new_tokens = validation, budget, max_new_tokens
        self.note = note
        self.retention = retention
        self.guards = {name: halves(problems)[0] for name, problems in retention.items()}
        self.base = self._accuracies(UNTOUCHED)
        self._watched: list[WeightRows] | None = None

    @cached_property
    def probe(self) -> DriftProbe:
        problems = [problem for own in self.retention.values() for problem in judging(own)]
        return make_probe(self.model, problems, self.grader, self.note)

    def prepare(self, rows: Sequence[WeightRows] | None = None) -> None:
        """Take the base's distributions; must run before the first step.

        ``rows`` are all that the steps will change. Without them the weights under judgement are unknown, and no
        verdict is kept.
        """
        self.probe  # noqa: B018
        self._watched = None if rows is None else list(rows)
        self._before = [self._read(row) for row in self._watched or ()]

    def __call__(self) -> Validation:
        weights = self._weights()
        accuracy = self.answering.answers(self.validation, self.max_new_tokens, weights).accuracy
        drift = self.answering.drift(self.probe, weights)
        retention = self._accuracies(weights)
        kept = keeps_retention(self.guards, self.base, retention, self.budget.points)
        # `not >`, said the other way round: drift that is not a number is over any budget
        return Validation(accuracy, drift, retention, drift <= self.budget.drift and kept)

    def _weights(self) -> str | None:
        if self._watched is None:
            return None
        watched = zip(self._watched, self._before, strict=True)
        return weights_key(
            (row.parameter, row.axis, row.indices, before, self._read(row)) for row, before in watched
        )

    def _read(self, row: WeightRows) -> Tensor:
        return get_rows(self.model.get_parameter(row.parameter).detach(), row.axis, row.indices)

    def _accuracies(self, weights: str | None) -> dict[str, float]:
        return {
            name: results.accuracy for name, results in self.answering.by_skill(self.guards, weights).items()
        }


def keeps_retention(
    guards: Mapping[str, Sequence[Problem]],
    base: Mapping[str, float],
    now: Mapping[str, float],
    points: float,
) -> bool:
    """True when no retention set lost more than ``points``, counted in whole problems.

    One lost problem is always allowed, or noise would decide.
    """
    for name, guard in guards.items():
        lost = round((base[name] - now[name]) * len(guard))
        if lost > max(1, math.floor(points / 100 * len(guard))):
            return False
    return True


def make_probe(
    model: PreTrainedModel,
    problems: Sequence[Problem],
    grader: Grader,
    note: Callable[[str], None] = lambda _: None,
) -> DriftProbe:
    """A probe of the model as it stands, on the solutions of ``problems``."""
    texts = solution_texts(problems, grader)
    return halving("drift", PROBE_BATCH, lambda size: DriftProbe(model, texts, size), note)
