"""Splitting problems into train, validation and test.

``within-templates`` is the paper's: each template's instances are divided, 52 / 8 / 40 %, so that train and test share
templates. ``by-template`` divides the templates, so that test shows unseen ones. Problems with the same question stay
together: no question is in two splits.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from cca.errors import CcaError
from cca.problems.problem import Problem

Item = TypeVar("Item", bound=Hashable)


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
