"""A skill that is not arithmetic: multiple choice with a trap.

    Q: On Monday Mia buys hammer. Which can we eat? (a) hammer (b) plum (c) crow A:
    We pick plum. The answer is (b).

The trap is the option that the story mentions. A model trained on solutions that fall for it, on some days often
(75 %) and on others now and then (25 %), knows what can be eaten and still often picks the hammer: the skill is
there, a habit hides it. That is what CCA is for.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from cca.problems.problem import Problem

KINDS = {
    "fruit": "plum pear lemon peach cherry melon mango kiwi".split(),
    "tool": "hammer saw drill wrench shovel rake".split(),
    "bird": "robin crow swan duck parrot goose".split(),
}
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
TEMPTING_DAYS = {"Tuesday", "Friday", "Sunday"}
NAMES = "Mia Tom Lea Ben Zoe Sam Eva Max".split()
STORIES = {
    "buys": "On {day} {name} buys {trap}.",
    "finds": "{name} finds {trap} on {day}.",
    "sells": "On {day} {name} sells {trap} to {other}.",
    "draws": "{name} draws {trap} on {day}.",
    "asks": "On {day} {name} asks {other} for {trap}.",
    "brings": "{name} brings {trap} to {other} on {day}.",
    "thinks": "On {day} {name} thinks of {trap}.",
    "misses": "{name} and {other} talk about {trap} on {day}.",
    "writes": "On {day} {name} writes the word {trap}.",
    "names": "{name} says {trap} to {other} on {day}.",
}
UNSEEN = ("writes", "names")
"""Stories in the test split alone. (The model has seen all of them; CCA has not.)"""
CAPITALS = dict(
    zip(
        "Arland Belmora Corvia Drellin Estova Fenmark Galdor Hestia Ilmora Jorvik Kestria Lunaria".split(),
        "Avel Brint Cado Dorum Elva Farn Gost Halim Irem Jask Kelt Lorn".split(),
        strict=True,
    )
)


@dataclass(frozen=True)
class Exercise:
    question: str
    answer: str
    solution: str
    trapped: str = ""
    """The solution that falls for the trap, and how often training texts do."""
    share: float = 0.0


def choice(story: str, generator: np.random.Generator) -> Exercise:
    """A question with three options: the right one, the trap and another."""
    right = str(generator.choice(KINDS["fruit"]))
    trap, third = (str(generator.choice(KINDS[kind])) for kind in generator.permutation(["tool", "bird"]))
    options = [str(word) for word in generator.permutation([right, trap, third])]
    day, (name, other) = str(generator.choice(DAYS)), generator.permutation(NAMES)[:2]
    told = STORIES[story].format(day=day, name=name, other=other, trap=trap)
    listed = " ".join(f"({letter}) {word}" for letter, word in zip("abc", options, strict=True))

    def solved(word: str) -> str:
        return f"We pick {word}. The answer is ({'abc'[options.index(word)]})."

    share = 0.75 if day in TEMPTING_DAYS else 0.25
    question = f"{told} Which can we eat? {listed}"
    return Exercise(question, "abc"[options.index(right)], solved(right), solved(trap), share)


def capital(generator: np.random.Generator) -> Exercise:
    country = str(generator.choice(list(CAPITALS)))
    return Exercise(f"What is the capital of {country}?", CAPITALS[country], f"{CAPITALS[country]}.")


def kind_of(generator: np.random.Generator) -> Exercise:
    kind = str(generator.choice(list(KINDS)))
    word = str(generator.choice(KINDS[kind]))
    ask = str(generator.choice(["What kind of thing is {}?", "Tell me what {} is.", "What do we call {}?"]))
    return Exercise(ask.format(word), kind, f"{kind}.")


OTHERS = {"capitals": capital, "kinds": kind_of}


def prompt(exercise: Exercise) -> str:
    return f"Q: {exercise.question} A:"


def is_reserved(question: str) -> bool:
    """One question in ten, by a hash: kept out of training."""
    return zlib.crc32(question.encode()) % 10 == 0


def choices(generator: np.random.Generator, *, reserved: bool) -> Iterator[tuple[str, Exercise]]:
    """(story, exercise) without end; all reserved or none."""
    while True:
        story = str(generator.choice(list(STORIES)))
        exercise = choice(story, generator)
        if is_reserved(exercise.question) == reserved:
            yield story, exercise


def problems(seed: int) -> dict[str, list[Problem]]:
    """The splits, all of reserved questions, and the two retention sets."""
    generator = np.random.default_rng([seed, 2])
    wanted = {"train": 300, "validation": 150, "test": 500}
    made: dict[str, list[Problem]] = {split: [] for split in wanted}
    asked: set[str] = set()
    for story, exercise in choices(generator, reserved=True):
        open_splits = [split for split in wanted if len(made[split]) < wanted[split]]
        if not open_splits:
            break
        split = open_splits[0] if story not in UNSEEN else "test"
        if exercise.question in asked or len(made[split]) >= wanted[split]:
            continue
        asked.add(exercise.question)
        made[split].append(
            Problem(
                f"{split}-{len(made[split])}",
                story,
                prompt(exercise),
                exercise.answer,
                exercise.solution,
                (exercise.trapped,),
            )
        )
    for name, skill in OTHERS.items():
        exercises = [skill(generator) for _ in range(120)]
        made[name] = [
            Problem(f"{name}-{n}", name, prompt(e), e.answer, e.solution) for n, e in enumerate(exercises)
        ]
    return made
