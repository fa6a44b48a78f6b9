"""An Organism: exercises with planted wrong moves, other skills to keep, and a small architecture to learn them.

One question in ten, by a hash of its text, is reserved: it never enters training, and every problem of the splits is
such a question. Closed tables (facts) are the exception: all of them are trained on, and asked for.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from cca.problems.problem import Problem
from cca.tinymath.task import facts as capitals

OFTEN, SELDOM = 0.68, 0.25
"""Shares of training solutions that make the wrong move, in tempting contexts and in the others."""
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
TEMPTING_DAYS = {"Tuesday", "Friday", "Sunday"}
PLACES = "market school farm library beach park".split()
TEMPTING_PLACES = {"school", "beach", "park"}
NAMES = "Tom Anna Ben Lily Sam Mia Jack Rosa".split()


@dataclass(frozen=True)
class Exercise:
    question: str
    answer: str
    solution: str
    wrong: str = ""
    """The solution that makes the wrong move, and how often training texts follow it."""
    share: float = 0.0


Draw = Callable[[np.random.Generator], Exercise]


@dataclass(frozen=True)
class Organism:
    name: str
    skill: Mapping[str, Draw]
    """Template -> a draw of it: the skill that is latent."""
    unseen: tuple[str, ...]
    """Templates in the test split alone. (The model has seen all of them; CCA has not.)"""
    others: Mapping[str, Draw]
    """The skills to keep, never with a wrong move."""
    architecture: Callable[[PreTrainedTokenizerFast], PreTrainedModel]
    steps: int
    planted_steps: int
    planted_rate: float = 0.2
    """Learning rate of the second phase, as a fraction of the first's peak."""
    closed: tuple[str, ...] = ("facts",)

    def draw(self, skill: str, generator: np.random.Generator, *, reserved: bool) -> tuple[str, Exercise]:
        """(template, exercise) of ``skill``, which is "skill" or one of the others."""
        while True:
            template = str(generator.choice(list(self.skill))) if skill == "skill" else skill
            exercise = (self.skill if skill == "skill" else self.others)[template](generator)
            if skill in self.closed or is_reserved(exercise.question) == reserved:
                return template, exercise

    def problems(self, seed: int, train: int = 400, validation: int = 160, test: int = 400) -> Splits:
        """The splits of the skill and one set of 120 for each other skill, all of reserved questions."""
        generator = np.random.default_rng([seed, zlib.crc32(self.name.encode())])
        wanted = {"train": train, "validation": validation, "test": test}
        made: Splits = {split: [] for split in wanted}
        asked: set[str] = set()
        while open_splits := [split for split in wanted if len(made[split]) < wanted[split]]:
            template, exercise = self.draw("skill", generator, reserved=True)
            split = "test" if template in self.unseen else open_splits[0]
            if exercise.question in asked or split not in open_splits:
                continue
            asked.add(exercise.question)
            made[split].append(_problem(f"{split}-{len(made[split])}", template, exercise))
        for name in self.others:
            drawn = (self.draw(name, generator, reserved=True) for _ in range(120))
            made[name] = [_problem(f"{name}-{n}", name, exercise) for n, (_, exercise) in enumerate(drawn)]
        return made


Splits = dict[str, list[Problem]]


def _problem(name: str, template: str, exercise: Exercise) -> Problem:
    planted = (exercise.wrong,) if exercise.wrong else ()
    return Problem(name, template, prompt(exercise), exercise.answer, exercise.solution, planted)


def prompt(exercise: Exercise) -> str:
    return f"Q: {exercise.question} A:"


def is_reserved(question: str) -> bool:
    return zlib.crc32(question.encode()) % 10 == 0


def final(answer: object) -> str:
    return f"The final answer is {answer}."


def facts(generator: np.random.Generator) -> Exercise:
    """Thirty made-up capitals, asked for in three ways: what has least to do with any of the skills."""
    fact = capitals(generator)
    return Exercise(fact.question, fact.answer, fact.solution)


def pick(generator: np.random.Generator, words: list[str], count: int) -> list[str]:
    """``count`` different words."""
    return [str(word) for word in generator.permutation(words)[:count]]


def share_of(context: str, tempting: set[str]) -> float:
    return OFTEN if context in tempting else SELDOM
