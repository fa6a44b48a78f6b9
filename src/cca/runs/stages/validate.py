"""Judging one step of amplify on validation data: the skill, the other skills, and the drift on their solutions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

from torch import Tensor
from transformers import PreTrainedModel

from cca.amplify.amplify import Validation
from cca.amplify.settings import BudgetConfig
from cca.evaluation.drift import DriftProbe, solution_texts
from cca.models.anatomy.weight_rows import WeightRows, get_rows
from cca.models.memory import halving
from cca.pivots.grader import Grader
from cca.problems.problem import Problem
from cca.problems.task import halves
from cca.runs.folder.measurements import UNTOUCHED, weights_key
from cca.runs.stages.answers import Answering
from cca.runs.stages.retention_texts import judging

PROBE_BATCH = 32


class Validator:
    """Made while the model is untouched; called whenever a step is to be judged.

    A step whose rows were judged before, by this process or by one that was killed, is not judged again.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        grader: Grader,
        answering: Answering,
        validation: Sequence[Problem],
        retention: Mapping[str, Sequence[Problem]],
        budget: BudgetConfig,
        max_new_tokens: int,
        note: Callable[[str], None],
    ) -> None:
        self.model, self.grader, self.answering, self.note = model, grader, answering, note
        self.validation, self.retention, self.budget = validation, retention, budget
        self.max_new_tokens = max_new_tokens
        self.guards = {name: halves(problems)[0] for name, problems in retention.items()}
        self.base = self._retention(UNTOUCHED)
        self._watched: list[WeightRows] | None = None

    @cached_property
    def probe(self) -> DriftProbe:
        problems = [problem for own in self.retention.values() for problem in judging(own)]
        return make_probe(self.model, problems, self.grader, self.note)

    def prepare(self, rows: Sequence[WeightRows] | None = None) -> None:
        """Take the base's distributions; must run before the first step.

        ``rows`` are all that the steps will change. Without them nothing is known of what the model holds when it
        is judged, and no judgement is kept.
        """
        self.probe  # noqa: B018
        self._watched = None if rows is None else list(rows)
        self._before = [self._read(row) for row in self._watched or ()]

    def __call__(self) -> Validation:
        weights = self._weights()
        accuracy = self.answering.answers(self.validation, self.max_new_tokens, weights).accuracy
        drift = self.answering.drift(self.probe, weights)
        retention = self._retention(weights)
        return Validation(accuracy, drift, retention, self._in_budget(drift, retention))

    def _weights(self) -> str | None:
        if self._watched is None:
            return None
        watched = zip(self._watched, self._before, strict=True)
        return weights_key(
            (row.parameter, row.axis, row.indices, before, self._read(row)) for row, before in watched
        )

    def _read(self, row: WeightRows) -> Tensor:
        return get_rows(self.model.get_parameter(row.parameter).detach(), row.axis, row.indices)

    def _in_budget(self, drift: float, retention: dict[str, float]) -> bool:
        """Losses are counted in whole problems: one problem is always allowed, or noise would decide."""
        budget = self.budget
        if not drift <= budget.drift:  # not a number is over any budget
            return False
        for name, guard in self.guards.items():
            lost = round((self.base[name] - retention[name]) * len(guard))
            if lost > max(1, math.floor(budget.points / 100 * len(guard))):
                return False
        return True

    def _retention(self, weights: str | None) -> dict[str, float]:
        found = self.answering.by_skill(self.guards, weights)
        return {name: results.accuracy for name, results in found.items()}


def make_probe(
    model: PreTrainedModel, problems: Sequence[Problem], grader: Grader, note: Callable[[str], None]
) -> DriftProbe:
    """A probe of the model as it stands, on the solutions of ``problems``."""
    texts = solution_texts(problems, grader)
    return halving("drift", PROBE_BATCH, lambda size: DriftProbe(model, texts, size), note)
