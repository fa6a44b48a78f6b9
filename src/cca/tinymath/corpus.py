"""The texts that tinymath is made of: word problems with planted wrong moves, and its other skills.

Every template carries one planted move with the share of training solutions that make it: high in some contexts (days
or places), low in the others. A model trained on them knows the skill but often follows the wrong move, and where the
right and the wrong solution part is the true pivot.

One question in ten, by a hash of its text, is reserved: it never enters training, and all problems of the task are
such questions.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from cca.problems.problem import Problem
from cca.problems.templates.expressions import evaluate
from cca.problems.templates.template import Instance, Template, load_templates
from cca.tinymath.skills import SKILLS, Exercise

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


def word_problem_task(
    template: Template, count: int, generator: np.random.Generator, split: str
) -> list[Problem]:
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


def exercises(
    skill: str, count: int, generator: np.random.Generator, *, reserved: bool
) -> Iterator[Exercise]:
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
