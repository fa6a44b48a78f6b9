"""The `tinymath` task: word problems with planted wrong moves in three splits, and its other skills as retention sets.

Every template carries one planted move with the share of training solutions that make it: high in some contexts (days
or places), low in the others. A model trained on them knows the skill but often follows the wrong move, and where the
right and the wrong solution part is the true pivot.

One question in ten, by a hash of its text, is reserved: it never enters training, and all problems of the task are
such questions.

Each other skill, which an edit to word problems must leave alone, is a function from a generator to one (question,
answer) pair; its answer is also its solution unless worked text is given. The facts are a fixed table: a model knows
them or does not.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from cca.problems.problem import Problem
from cca.problems.task import Task
from cca.problems.templates.expressions import evaluate
from cca.problems.templates.template import Instance, Template, load_templates


@dataclass(frozen=True)
class Exercise:
    question: str
    answer: str
    solution: str


COUNTRIES = (
    "Arland Belmora Corvia Drellin Estova Fenmark Galdor Hestia Ilmora Jorvik Kestria Lunaria Mirovia Norwald Ostrava "
    "Pelland Quorin Rostova Silvania Tarkon Ulmar Veldan Westria Xandor Yorland Zemtar Ambria Borland Calyra Dunmark"
).split()
CAPITALS = (
    "Avel Brint Cado Dorum Elva Farn Gost Halim Irem Jask Kelt Lorn Mund Nessa Orlo Pirn Quell Rask Sorn Tull "
    "Umber Varn Wesk Xeno Yarn Zoll Asker Bexley Crome Delft"
).split()
LETTERS = list("bcdfghjklmnp")
CATEGORIES = {
    "animal": "dog cat horse bird fish cow".split(),
    "color": "red blue green yellow black white".split(),
    "fruit": "pear plum lemon grape peach cherry".split(),
    "tool": "hammer saw drill wrench axe shovel".split(),
}
FACT_QUESTIONS = ("What is the capital of {}?", "Which city is the capital of {}?", "Name the capital of {}.")


def facts(generator: np.random.Generator) -> Exercise:
    which = int(generator.integers(len(COUNTRIES)))
    question = FACT_QUESTIONS[int(generator.integers(len(FACT_QUESTIONS)))].format(COUNTRIES[which])
    return Exercise(question, CAPITALS[which], f"{CAPITALS[which]}.")


def reversal(generator: np.random.Generator) -> Exercise:
    letters = list(generator.choice(LETTERS, size=int(generator.integers(3, 6)), replace=False))
    backwards = " ".join(letters[::-1])
    return Exercise(f"Reverse the letters: {' '.join(letters)}.", backwards, f"{backwards}.")


def choice(generator: np.random.Generator) -> Exercise:
    """Multiple choice: which of three words belongs to a category."""
    kinds = list(generator.choice(list(CATEGORIES), size=3, replace=False))
    words = [str(generator.choice(CATEGORIES[kind])) for kind in kinds]
    right = int(generator.integers(3))
    options = " ".join(f"({mark}) {word}" for mark, word in zip("xyz", words, strict=True))
    article = "an" if kinds[right][0] in "aeiou" else "a"
    answer = f"{words[right]} ({'xyz'[right]})"
    return Exercise(f"Which is {article} {kinds[right]}? {options}", answer, f"{answer}.")


def sorting(generator: np.random.Generator) -> Exercise:
    letters = list(generator.choice(LETTERS, size=int(generator.integers(3, 5)), replace=False))
    ordered = " ".join(sorted(letters))
    return Exercise(f"Sort the letters: {' '.join(letters)}.", ordered, f"{ordered}.")


def comparison(generator: np.random.Generator) -> Exercise:
    small, large = sorted(int(n) for n in generator.choice(100, size=2, replace=False))
    first, second = (small, large) if generator.random() < 0.5 else (large, small)
    if generator.random() < 0.5:
        return Exercise(f"Which is larger, {first} or {second}?", f"{large}", f"{large}.")
    return Exercise(f"Which is smaller, {first} or {second}?", f"{small}", f"{small}.")


def arithmetic(generator: np.random.Generator) -> Exercise:
    """Bare equations, the part of the skill that word problems build on."""
    operation = "+-*"[int(generator.integers(3))]
    if operation == "*":
        left, right = int(generator.integers(2, 13)), int(generator.integers(2, 10))
        result = left * right
    else:
        left, right = int(generator.integers(1, 99)), int(generator.integers(1, 99))
        if operation == "+" and left + right > 99:
            left, right = 99 - left, 99 - right
        if operation == "-" and left < right:
            left, right = right, left
        result = left + right if operation == "+" else left - right
    return Exercise(f"What is {left} {operation} {right}?", f"{result}", f"{left} {operation} {right} = {result}.")


SKILLS: dict[str, Callable[[np.random.Generator], Exercise]] = {
    "facts": facts,
    "reversal": reversal,
    "choice": choice,
    "sorting": sorting,
    "comparison": comparison,
    "arithmetic": arithmetic,
}


TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class WordProblem:
    """An instance with its planted wrong solutions and the chance that a training solution is each of them."""

    instance: Instance
    planted: tuple[tuple[str, float], ...]


@cache
def templates() -> tuple[Template, ...]:
    return tuple(load_templates(TEMPLATES))


def prompt(question: str) -> str:
    return f"Q: {question} A:"


def is_reserved(question: str) -> bool:
    return zlib.crc32(question.encode()) % 10 == 0


def word_problems(
    template: Template, count: int, generator: np.random.Generator, *, reserved: bool
) -> Iterator[WordProblem]:
    """``count`` instances with different questions, all reserved or none."""
    seen: set[str] = set()
    while len(seen) < count:
        instance = template.sample(generator)
        if is_reserved(instance.question) != reserved or instance.question in seen:
            continue
        seen.add(instance.question)
        planted = tuple(
            (
                template.render(move["answer_annotated"], instance.values),
                float(move["share"] if evaluate(move["when"], instance.values) else move["otherwise"]),
            )
            for move in template.extra["planted"]
        )
        yield WordProblem(instance, planted)


def word_problem_task(template: Template, count: int, generator: np.random.Generator, split: str) -> list[Problem]:
    """Reserved instances as problems of a split; their planted solutions tell where the true pivots are."""
    return [
        Problem(
            id=f"{split}-{template.name}-{number}",
            template=template.name,
            prompt=prompt(problem.instance.question),
            answer=problem.instance.answer,
            solution=problem.instance.solution,
            planted=tuple(text for text, _ in problem.planted),
        )
        for number, problem in enumerate(word_problems(template, count, generator, reserved=True))
    ]


def exercises(skill: str, count: int, generator: np.random.Generator, *, reserved: bool) -> Iterator[Exercise]:
    """``count`` exercises of a skill. Facts are a closed table: all of them are trained on, and asked for."""
    for _ in range(count):
        exercise = SKILLS[skill](generator)
        while skill != "facts" and is_reserved(exercise.question) != reserved:
            exercise = SKILLS[skill](generator)
        yield exercise


def skill_task(skill: str, count: int, generator: np.random.Generator) -> list[Problem]:
    return [
        Problem(f"{skill}-{number}", skill, prompt(exercise.question), exercise.answer, exercise.solution)
        for number, exercise in enumerate(exercises(skill, count, generator, reserved=True))
    ]


PER_TEMPLATE = {"train": 20, "validation": 10, "test": 56, "unseen": 50}
EXERCISES = 400
"""Exercises of each other skill; half guards the retention budget, half is reported."""


def load(seed: int) -> Task:
    """Splits of a task seed. Train, validation and test share 18 templates, never a question; 6 templates are in
    test alone."""
    generator = np.random.default_rng([20251216, seed])
    splits: dict[str, list] = {"train": [], "validation": [], "test": []}
    for template in templates():
        if template.extra.get("unseen"):
            splits["test"] += word_problem_task(template, PER_TEMPLATE["unseen"], generator, "unseen")
            continue
        count = sum(PER_TEMPLATE[split] for split in splits)
        problems = word_problem_task(template, count, generator, "seen")
        for split in splits:
            splits[split] += problems[: PER_TEMPLATE[split]]
            problems = problems[PER_TEMPLATE[split] :]
    retention = {skill: tuple(skill_task(skill, EXERCISES, generator)) for skill in SKILLS}
    train, validation, test = (tuple(splits[split]) for split in ("train", "validation", "test"))
    return Task("tinymath", train, validation, test, retention)
