"""Retention sets divided: one half guards the budget, the other is reported.

Half of the guarding problems may be fitted to (by circuits, whitening and anchors), so that the rest of that half
judges steps on text that nothing was fitted to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cca.gradients.sampled_likelihood import Text
from cca.pivots.traces import Grader
from cca.problems.problem import Problem

MOST = 100
"""Most problems of one skill that anything is fitted to."""


def halves(problems: Sequence[Problem]) -> tuple[list[Problem], list[Problem]]:
    """The problems that guard the budget, and those that are reported."""
    return list(problems[::2]), list(problems[1::2])


def fitted(problems: Sequence[Problem]) -> list[Problem]:
    """The problems of one retention set whose text anything may be fitted to: half of those that guard."""
    own = halves(problems)[0][::2]
    return own[:: max(1, -(-len(own) // MOST))]


def judging(problems: Sequence[Problem]) -> list[Problem]:
    """The problems of one retention set that judge the drift of steps: those that guard and are never fitted to."""
    guard = halves(problems)[0]
    return guard[1::2] or guard


def retention_texts(sets: Mapping[str, Sequence[Problem]], grader: Grader) -> list[Text]:
    """The texts of other skills that a circuit, whitening or an anchor may be fitted to."""
    return solution_texts([problem for problems in sets.values() for problem in fitted(problems)], grader)


def solution_texts(problems: Sequence[Problem], grader: Grader) -> list[Text]:
    """The worked solution of each problem, or its answer where there is none."""
    texts = [
        Text(
            grader.prompt_ids(problem),
            grader.codec.encode_continuation(f" {problem.solution or problem.answer}"),
        )
        for problem in problems
    ]
    return [text for text in texts if text.solution]
