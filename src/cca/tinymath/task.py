"""The `tinymath` task: reserved word problems in three splits, and its other skills as retention sets."""

from __future__ import annotations

import numpy as np

from cca.problems.task import Task
from cca.tinymath.corpus import skill_task, templates, word_problem_task
from cca.tinymath.skills import SKILLS

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
