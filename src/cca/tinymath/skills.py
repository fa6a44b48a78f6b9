"""The other skills of the model organisms: what an edit to word problems must leave alone.

Each skill is a function from a generator to one (question, answer) pair; its answer is also its solution unless
worked text is given. The facts are a fixed table: a model knows them or does not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


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
FACT_QUESTIONS = (
    "What is the capital of {}?",
    "Which city is the capital of {}?",
    "Name the capital of {}.",
)


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
    return Exercise(
        f"What is {left} {operation} {right}?", f"{result}", f"{left} {operation} {right} = {result}."
    )


SKILLS: dict[str, Callable[[np.random.Generator], Exercise]] = {
    "facts": facts,
    "reversal": reversal,
    "choice": choice,
    "sorting": sorting,
    "comparison": comparison,
    "arithmetic": arithmetic,
}
