"""Where a task's problems come from: files of the user's, or a built-in task. One line a built-in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

from cca.errors import CcaError
from cca.problems.answers import Judge
from cca.problems.problem import Problem, problems_fingerprint, read_problems

BUILT_IN = {"tinymath": "cca.tinymath.task"}
"""Task name -> module with ``load(seed) -> Task``."""


@dataclass(frozen=True)
class Task:
    name: str
    train: tuple[Problem, ...]
    validation: tuple[Problem, ...]
    test: tuple[Problem, ...]
    retention: dict[str, tuple[Problem, ...]] = field(default_factory=dict)

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


def built_in_task(name: str, seed: int) -> Task:
    """Raises CcaError for an unknown name."""
    if name not in BUILT_IN:
        raise CcaError(
            f"task: expected {', '.join(BUILT_IN)} or files {{train, validation, test}}, got {name!r}"
        )
    load: Callable[[int], Task] = import_module(BUILT_IN[name]).load
    return load(seed)


def task_from_files(train: Path, validation: Path, test: Path) -> Task:
    return Task("files", *(tuple(read_problems(path)) for path in (train, validation, test)))


def with_retention(task: Task, files: Sequence[str]) -> Task:
    """The task with the retention sets of ``files`` added, each named by its file."""
    sets = dict(task.retention)
    for file in files:
        name = Path(file).stem
        if name in sets:
            raise CcaError(f"retention: expected file names that differ, got {name!r} twice")
        sets[name] = tuple(read_problems(Path(file)))
    return Task(task.name, task.train, task.validation, task.test, sets)


def check_answers(task: Task, judge: Judge) -> None:
    """Raise CcaError for the first gold answer that the judge cannot read, naming problem and split."""
    splits = {"train": task.train, "validation": task.validation, "test": task.test, **task.retention}
    for split, problems in splits.items():
        for problem in problems:
            try:
                judge.check_gold(problem.answer)
            except CcaError as error:
                raise CcaError(f"{split}, problem {problem.id!r}: {error}") from error


def halves(problems: Sequence[Problem]) -> tuple[list[Problem], list[Problem]]:
    """A set in two: what guards the budget (every other problem), and what is reported."""
    return list(problems[::2]), list(problems[1::2])
