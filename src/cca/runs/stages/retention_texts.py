"""Texts of other skills that circuits and steps may be fitted to.

Every other problem of each retention set's guarding half, so that the rest of that half judges what nothing was fitted
to. At most `MOST` per skill, spread over the set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cca.evaluation.drift import solution_texts
from cca.gradients.sampled_likelihood import Text
from cca.pivots.grader import Grader
from cca.problems.problem import Problem
from cca.problems.task import halves

MOST = 100
"""Problems per skill that anything is fitted to."""


def judging(problems: Sequence[Problem]) -> list[Problem]:
    """The problems of one retention set that drift is judged on while steps are chosen: nothing was fitted to them."""
    guard = halves(problems)[0]
    return guard[1::2] or guard


def retention_texts(retention: Mapping[str, Sequence[Problem]], grader: Grader) -> list[Text]:
    problems = []
    for own in retention.values():
        fitted = halves(own)[0][::2]
        problems += fitted[:: max(1, -(-len(fitted) // MOST))]
    return solution_texts(problems, grader)
