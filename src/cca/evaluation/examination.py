"""An Examination: what is asked of a model, the same of every model that is compared.

Greedy answers to a task's problems (by seed, where the task is sampled or split with one), to the problems of its other
skills, and any tasks of lm-evaluation-harness. Prompts are made anew for each model: its chat template may be its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cca.engines.engine import Progress
from cca.engines.hf import HFEngine, context_length
from cca.evaluation import lm_eval as harness
from cca.evaluation.accuracy import comparison
from cca.evaluation.measure import Measured, check_seeds_matter, figures, measure
from cca.files import Row
from cca.models.loading import LoadedModel
from cca.pivots.traces import Grader, longest_completion
from cca.problems.judges.judge import Judge
from cca.problems.problem import Problem
from cca.problems.task import Task, check_answers

Work = Callable[[str, int | None], AbstractContextManager[Progress]]
"""Told of a piece of work and how much there is of it; gives the function that is told what is done."""


@dataclass(frozen=True)
class Examination:
    """``tasks`` gives the task of each seed for a tokenizer; none where lm-eval's tasks are all that is asked."""

    tasks: Callable[[Any], dict[int, Task]]
    judge: Callable[[Task], Judge]
    split: str = "test"
    max_new_tokens: int | None = None
    batch_size: int = 64
    harness_tasks: tuple[str, ...] = ()
    harness_settings: harness.LmEvalConfig = harness.DEFAULTS

    def of(self, loaded: LoadedModel, side: str, work: Work, harness_folder: Path | None = None) -> Answers:
        """What the model as it stands makes of it. lm-eval's own files go into ``harness_folder``."""
        answers = Answers()
        for seed, task in self.tasks(loaded.codec.tokenizer).items():
            self._ask(seed, task, loaded, side, work, answers)
        for name in self.harness_tasks:
            with work(f"{side}: lm-eval {name}", None):
                answers.harness |= harness.run_tasks(
                    loaded.model, loaded.codec.tokenizer, [name], self.harness_settings, loaded.name, harness_folder
                )  # fmt: skip
        return answers

    def _ask(
        self, seed: int, task: Task, loaded: LoadedModel, side: str, work: Work, answers: Answers
    ) -> None:
        judge = self.judge(task)
        check_answers(task, judge)
        problems: tuple[Problem, ...] = getattr(task, self.split)
        check_seeds_matter([*(own.problems for own in answers.task.values()), problems])
        answers.task[seed] = self._measured(problems, judge, loaded, f"{side}: {task.name}", work)
        answers.about = {"task": task.origin, "judge": judge.name, "fingerprint": task.fingerprint}
        if len(answers.task) == 1:  # the other skills do not depend on the seed, or hardly
            answers.retention = {
                name: self._measured(own, judge, loaded, f"{side}: {name}", work)
                for name, own in task.retention.items()
            }

    def _measured(
        self, problems: Sequence[Problem], judge: Judge, loaded: LoadedModel, what: str, work: Work
    ) -> Measured:
        longest = self.max_new_tokens or longest_completion(
            problems, loaded.codec, context_length(loaded.model)
        )
        engine = HFEngine(loaded.model, self.batch_size)
        with work(what, len(problems)) as progress:
            return measure(problems, Grader(loaded.codec, judge), engine, longest, progress)


@dataclass
class Answers:
    """One model's: to the task by seed, to its other skills, to lm-eval's tasks."""

    task: dict[int, Measured] = field(default_factory=dict)
    retention: dict[str, Measured] = field(default_factory=dict)
    harness: dict[str, harness.Outcome] = field(default_factory=dict)
    about: Row = field(default_factory=dict)

    def rows(self, side: str) -> list[Row]:
        """Every single answer, for the file beside the results."""
        sets = [*((str(seed), own) for seed, own in self.task.items()), *self.retention.items()]
        return [
            {
                "side": side,
                "set": name,
                "problem": problem.id,
                "template": problem.template,
                "verdict": trace.verdict,
                "answer": trace.answer,
                "gold": problem.answer,
                "text": trace.text,
            }
            for name, own in sets
            for problem, trace in zip(own.problems, own.traces, strict=True)
        ]


def results(base: Answers, patched: Answers | None, seed: int) -> Row:
    """The figures of one model, or of two on the same problems, with the names of a run's report.json."""
    row: Row = {}
    if base.task:
        row |= figures(base.task, None if patched is None else patched.task, seed)
    row["retention"] = {
        name: _retention(own, None if patched is None else patched.retention[name], seed)
        for name, own in base.retention.items()
    }
    row["retention"] |= harness.compared(base.harness, None if patched is None else patched.harness, seed)
    return row


def _retention(base: Measured, patched: Measured | None, seed: int) -> Row:
    row: Row = {"problems": len(base.problems), "base": base.results.accuracy}
    if patched is not None:
        change = comparison(base.results, patched.results, seed)
        row |= {"patched": patched.results.accuracy}
        row |= {key: change[key] for key in ("points", "interval", "p_value")}
    return row
