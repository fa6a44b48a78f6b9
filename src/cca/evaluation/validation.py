"""An edited model held against its base: each step of amplify on validation data, and the end on the test problems.

Steps are held against it on the guarding halves of the retention sets, the end on the reported ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

from torch import Tensor
from transformers import PreTrainedModel

from cca.amplify.amplify import Validation
from cca.amplify.settings import BudgetConfig
from cca.evaluation.accuracy import Results, comparison, per_template, skill_change, summary
from cca.evaluation.answers import UNTOUCHED, Answering, weights_key
from cca.evaluation.retention import DriftProbe, halves, judging, mean_drift, solution_texts
from cca.files import Row
from cca.models.anatomy.weight_rows import WeightRows, get_rows
from cca.models.memory import halving
from cca.pivots.traces import Grader
from cca.problems.problem import Problem
from cca.problems.task import Task, spread

Note = Callable[[str], None]
PROBE_BATCH = 32


class Validator:
    """Judges the model as it stands. Make it while the model is untouched; call it after each step.

    A step whose rows were judged before, by this process or by one that was killed, is not judged again.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        answering: Answering,
        task: Task,
        budget: BudgetConfig,
        max_new_tokens: int,
        note: Note,
    ) -> None:
        self.model, self.answering, self.budget, self.note = model, answering, budget, note
        self.validation, self.max_new_tokens = task.validation, max_new_tokens
        self.judging = [problem for problems in task.retention.values() for problem in judging(problems)]
        self.guards = {name: halves(problems)[0] for name, problems in task.retention.items()}
        self.base = self._accuracies(UNTOUCHED)
        self._watched: list[WeightRows] | None = None
        for name, accuracy in self.base.items():
            if accuracy == 0:
                note(f"retention set {name}: the base solves none of its problems, so its accuracy guards nothing")

    @cached_property
    def probe(self) -> DriftProbe:
        return make_probe(self.model, self.judging, self.answering.grader, self.note)

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
        answers = self.answering.answers(self.validation, self.max_new_tokens, weights)
        if not self.guards:
            return Validation(answers.accuracy, None, {}, None, answers.share_cut_off)
        drift = self.answering.drift(self.probe, weights)
        retention = self._accuracies(weights)
        kept = keeps_retention(self.guards, self.base, retention, self.budget.points)
        # drift that is not a number is over any budget
        inside = drift <= self.budget.drift and kept
        return Validation(answers.accuracy, drift, retention, inside, answers.share_cut_off)

    def _weights(self) -> str | None:
        if self._watched is None:
            return None
        watched = zip(self._watched, self._before, strict=True)
        return weights_key((row.parameter, row.axis, row.indices, before, self._read(row)) for row, before in watched)

    def _read(self, row: WeightRows) -> Tensor:
        return get_rows(self.model.get_parameter(row.parameter).detach(), row.axis, row.indices)

    def _accuracies(self, weights: str | None) -> dict[str, float]:
        return {name: results.accuracy for name, results in self.answering.by_skill(self.guards, weights).items()}


def keeps_retention(
    guards: Mapping[str, Sequence[Problem]], base: Mapping[str, float], now: Mapping[str, float], points: float
) -> bool:
    """True when no retention set lost more than ``points``, counted in whole problems.

    One lost problem is always allowed, or noise would decide.
    """
    for name, guard in guards.items():
        lost = round((base[name] - now[name]) * len(guard))
        if lost > max(1, math.floor(points / 100 * len(guard))):
            return False
    return True


def make_probe(model: PreTrainedModel, problems: Sequence[Problem], grader: Grader, note: Note) -> DriftProbe:
    """A probe of the model as it stands, on the solutions of ``problems``."""
    texts = solution_texts(problems, grader)
    return halving("drift", PROBE_BATCH, lambda size: DriftProbe(model, texts, size), note)


class AgainstBase:
    """Holds the base's results, measured while the model is untouched, and compares any edit with them.

    ``most_retention`` limits the reported problems of each retention set, spread over the set.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        answering: Answering,
        task: Task,
        max_new_tokens: int,
        seed: int,
        note: Note,
        most_retention: int | None = None,
    ) -> None:
        self.answering, self.test, self.max_new_tokens = answering, task.test, max_new_tokens
        self.seen, self.seed = task.seen_templates, seed
        self.reported = {name: spread(halves(own)[1], most_retention) for name, own in task.retention.items()}
        self.probes = {name: make_probe(model, own, answering.grader, note) for name, own in self.reported.items()}
        self.base = self.results(UNTOUCHED)
        self.base_retention = answering.by_skill(self.reported, UNTOUCHED)

    def __call__(self, weights: str | None = None) -> Row:
        """The model as it stands, compared with the base. Accuracies are fractions, gains percentage points.

        ``weights`` is its `weights_key`; without it nothing is kept for a resumed run.
        """
        return self.compared(self.results(weights), weights)

    def results(self, weights: str | None = None) -> Results:
        """The model's verdicts on the test problems."""
        return self.answering.answers(self.test, self.max_new_tokens, weights)

    def compared(self, patched: Results, weights: str | None = None) -> Row:
        """As a call, where the `results` are known."""
        retention = self.answering.by_skill(self.reported, weights)
        unseen = {problem.template for problem in self.test} - self.seen
        drifts = {name: self.answering.drift(probe, weights) for name, probe in self.probes.items()}
        return {
            "base": summary(self.base),
            "patched": summary(patched),
            "gain": comparison(self.base, patched, self.seed),
            "seen_templates": self._part(patched, self.seen),
            "unseen_templates": self._part(patched, unseen),
            "templates": [
                {**record, "seen": record["template"] in self.seen} for record in per_template(self.base, patched)
            ],
            "drift": {
                "kl": mean_drift(self.probes, drifts),
                "tokens": sum(probe.tokens for probe in self.probes.values()),
            },
            "retention": {
                name: {**skill_change(self.base_retention[name], after, self.seed), "drift": drifts[name]}
                for name, after in retention.items()
            },
        }

    def _part(self, patched: Results, templates: set[str]) -> Row | None:
        before, after = self.base.of_templates(templates), patched.of_templates(templates)
        if not before.problems:
            return None
        return {
            "problems": len(before.problems),
            "templates": len({problem.template for problem in before.problems}),
            "base": before.accuracy,
            "patched": after.accuracy,
            "gain": comparison(before, after, self.seed),
        }
