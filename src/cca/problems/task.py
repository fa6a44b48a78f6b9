"""A Task: the problems of one skill in three splits, the other skills beside it, how it asks and how it is judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from cca.errors import CcaError
from cca.files import fingerprint
from cca.problems.judges.judge import Judge, make_judge
from cca.problems.judges.stopping import StoppingJudge
from cca.problems.problem import Problem, problems_fingerprint, read_problems
from cca.problems.prompts import PLAIN, Prompts

T = TypeVar("T")
LM_EVAL = "lm_eval:"
"""Begins the retention entries that are tasks of lm-evaluation-harness."""


@dataclass(frozen=True)
class Task:
    name: str
    train: tuple[Problem, ...]
    validation: tuple[Problem, ...]
    test: tuple[Problem, ...]
    retention: dict[str, tuple[Problem, ...]] = field(default_factory=dict)
    prompts: Prompts = PLAIN
    """What rows with a ``question`` were made into prompts by."""
    judge: Judge | str | None = None
    """The judge that suits the task, where the gold answers alone do not tell."""
    origin: dict[str, Any] = field(default_factory=dict)
    """For the record of a run: where the problems come from and how they were divided."""

    @property
    def seen_templates(self) -> set[str]:
        return {problem.template for problem in self.train}

    @property
    def fingerprint(self) -> str:
        sets = [
            self.train,
            self.validation,
            self.test,
            *(self.retention[name] for name in sorted(self.retention)),
        ]
        return problems_fingerprint(problem for problems in sets for problem in problems)

    @property
    def asking(self) -> str:
        """The fingerprint of what decides verdicts beside the problems: the task's own judge, where completions end."""
        own = self.judge if isinstance(self.judge, str | None) else self.judge.name
        return fingerprint([own, self.prompts.stop, self.prompts.thinking])


def with_retention(task: Task, retention: Sequence[str]) -> Task:
    """The task with the retention sets of the files added, each named by its file. lm-eval's tasks are passed over."""
    sets = dict(task.retention)
    for file in retention:
        if file.startswith(LM_EVAL):
            continue
        name = Path(file).stem
        if name in sets:
            raise CcaError(f"retention: expected file names that differ, got {name!r} twice")
        sets[name] = tuple(read_problems(Path(file), task.prompts))
    return replace(task, retention=sets)


def lm_eval_tasks(retention: Sequence[str]) -> list[str]:
    """The lm-evaluation-harness tasks among the entries of ``retention``."""
    return [entry.removeprefix(LM_EVAL) for entry in retention if entry.startswith(LM_EVAL)]


def task_judge(task: Task, wanted: str | Mapping[str, Any] = "auto", *, allow_code: bool = False) -> Judge:
    """The judge of a task: the one asked for, else the task's own, else the one that the gold answers ask for.

    It is told when completions begin inside a thought, and sees them up to the first stop string.
    """
    options = (
        {} if isinstance(wanted, str) else {key: value for key, value in wanted.items() if key != "name"}
    )
    judge: Judge | str = wanted if isinstance(wanted, str) else wanted["name"]
    if judge == "auto" and task.judge is not None:
        judge = task.judge
    if isinstance(judge, str):
        if task.prompts.thinking and ":" not in judge:
            options.setdefault("thinking", True)
        judge = make_judge(judge, allow_code=allow_code, **options)
    elif options:
        raise CcaError(f"judge: the task brings its own judge, which has no options, got {sorted(options)}")
    return StoppingJudge(judge, task.prompts.stop) if task.prompts.stop else judge


def check_answers(task: Task, judge: Judge) -> None:
    """Raise CcaError for the first gold answer that the judge cannot read, naming problem and split."""
    splits = {"train": task.train, "validation": task.validation, "test": task.test, **task.retention}
    for split, problems in splits.items():
        for problem in problems:
            try:
                judge.check_gold(problem.answer)
            except CcaError as error:
                raise CcaError(f"{split}, problem {problem.id!r}: {error}") from error


def spread(items: Sequence[T], most: int | None) -> list[T]:
    """At most ``most`` of the items, evenly over their order, so that every template of problems keeps its share."""
    if most is None or most >= len(items):
        return list(items)
    return [items[place * len(items) // most] for place in range(most)]
