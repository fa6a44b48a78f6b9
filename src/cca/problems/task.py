"""A Task: the problems of one skill in three splits, the other skills, how it asks and how it is judged.

``within-templates`` splits as the paper does: each template's instances are divided, 52 / 8 / 40 %, so that train and
test share templates. ``by-template`` divides the templates, so that test shows unseen ones. Problems with the same
question stay together: no question is in two splits.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from cca.errors import CcaError
from cca.files import fingerprint
from cca.problems.judges import make_judge
from cca.problems.judges.judge import Judge, StoppingJudge
from cca.problems.problem import PLAIN, Problem, Prompts, problems_fingerprint, read_problems

T = TypeVar("T")
Item = TypeVar("Item", bound=Hashable)
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
    """The prompts that rows with a ``question`` were made into."""
    judge: Judge | str | None = None
    """The judge that suits the task, where the gold answers alone do not tell."""
    origin: dict[str, Any] = field(default_factory=dict)
    """For the record of a run: where the problems come from and how they were divided."""

    @property
    def seen_templates(self) -> set[str]:
        return {problem.template for problem in self.train}

    @property
    def sets(self) -> dict[str, tuple[Problem, ...]]:
        """The three splits, then the retention sets in alphabetical order."""
        retention = {name: self.retention[name] for name in sorted(self.retention)}
        return {"train": self.train, "validation": self.validation, "test": self.test, **retention}

    @property
    def fingerprint(self) -> str:
        return problems_fingerprint(problem for problems in self.sets.values() for problem in problems)

    @property
    def asking(self) -> str:
        """Fingerprint of what decides verdicts next to the problems: the task's own judge, where completions end."""
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

    It knows when completions begin inside a thought, and sees them up to the first stop string.
    """
    options = {} if isinstance(wanted, str) else {key: value for key, value in wanted.items() if key != "name"}
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
    for split, problems in task.sets.items():
        for problem in problems:
            try:
                judge.check_gold(problem.answer)
            except CcaError as error:
                raise CcaError(f"{split}, problem {problem.id!r}: {error}") from error


def check_prompts(task: Task, encode: Callable[[Problem], Sequence[int]], context: int, vocabulary: int) -> None:
    """Raise CcaError for the first prompt that the model cannot take, naming problem and split.

    ``encode`` gives a problem's prompt as token ids; the model takes ``context`` tokens, one of them generated, and has
    embeddings for ``vocabulary`` ids.
    """
    for split, problems in task.sets.items():
        for problem in problems:
            token_ids = encode(problem)
            where = f"{split}, problem {problem.id!r}: its prompt has"
            if not 0 < len(token_ids) < context:
                raise CcaError(
                    f"{where} {len(token_ids)} tokens, the model takes {context} with at least one of the completion; "
                    "change the problem or take it out"
                )
            if max(token_ids) >= vocabulary:
                raise CcaError(
                    f"{where} the token id {max(token_ids)}, the model's embedding has {vocabulary}; give the "
                    "tokenizer that belongs to the model"
                )


def overlaps(task: Task) -> list[str]:
    """Notes on prompts that are in two splits, or in train and in a retention set."""
    notes: list[str] = []
    sets = task.sets
    pairs = [("validation", "train"), ("test", "train"), ("test", "validation")]
    for name, other in [*pairs, *((name, "train") for name in task.retention)]:
        known = {problem.prompt for problem in sets[other]}
        shared = [problem.id for problem in sets[name] if problem.prompt in known]
        if shared:
            notes.append(
                f"{len(shared)} of {len(sets[name])} {name} prompts are in {other} too (the first: {shared[0]!r})"
            )
    return notes


def spread(items: Sequence[T], most: int | None) -> list[T]:
    """At most ``most`` of the items, evenly over their order, so that every template of problems keeps its share."""
    if most is None or most >= len(items):
        return list(items)
    return [items[place * len(items) // most] for place in range(most)]


class TooFewProblems(CcaError):
    """A division with an empty part."""


@dataclass(frozen=True)
class Division:
    """How to divide. ``unseen`` is the share of templates that within-templates keeps for the last split alone."""

    rule: str = "within-templates"
    unseen: float = 0.0
    seed: int = 0


def divide(
    problems: Sequence[Problem], shares: Sequence[float], division: Division = Division()
) -> list[list[Problem]]:
    """``problems`` in as many parts as there are ``shares`` (which add up to 1), each in its former order.

    Raises TooFewProblems when a part comes out empty.
    """
    templates = list(dict.fromkeys(problem.template for problem in problems))
    part_of: dict[str, int] = {}  # problem id -> part
    if division.rule == "by-template":
        if len(templates) < len(shares):
            raise TooFewProblems(
                f"task.split: by-template needs at least {len(shares)} templates, got {len(templates)}; take "
                "within-templates"
            )
        part_of_template = _deal(templates, shares, _generator(division.seed, "templates"))
        part_of = {problem.id: part_of_template[problem.template] for problem in problems}
    else:
        generator = _generator(division.seed, "unseen")
        unseen = set(generator.permutation(templates)[: round(division.unseen * len(templates))].tolist())
        for template in templates:
            own = [problem for problem in problems if problem.template == template]
            if template in unseen:
                part_of |= dict.fromkeys((problem.id for problem in own), len(shares) - 1)
                continue
            prompts = list(dict.fromkeys(problem.prompt for problem in own))
            part_of_prompt = _deal(prompts, shares, _generator(division.seed, template))
            part_of |= {problem.id: part_of_prompt[problem.prompt] for problem in own}
    parts = [[p for p in problems if part_of[p.id] == index] for index in range(len(shares))]
    for share, part in zip(shares, parts, strict=True):
        if not part:
            raise TooFewProblems(
                f"task.shares: {share:.0%} of {len(problems)} problems of {len(templates)} templates is none; "
                "give more problems or other shares"
            )
    return parts


def draw_some(problems: Sequence[Problem], limit: int | None, seed: int, name: str) -> list[Problem]:
    """At most ``limit`` of the problems, drawn with the seed, in their order."""
    if limit is None or limit >= len(problems):
        return list(problems)
    chosen = _generator(seed, name).choice(len(problems), size=limit, replace=False)
    return [problems[index] for index in sorted(chosen)]


def _deal(items: Sequence[Item], shares: Sequence[float], generator: np.random.Generator) -> dict[Item, int]:
    """The part of each item. A bound between whole items falls to either side at random: shares hold on average."""
    order = generator.permutation(len(items))
    offset = generator.random()
    bounds = [math.floor(round(float(bound) * len(items), 6) + offset) for bound in np.cumsum(shares)[:-1]]
    return {items[item]: sum(place >= bound for bound in bounds) for place, item in enumerate(order)}


def _generator(seed: int, name: str) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(name.encode())])
