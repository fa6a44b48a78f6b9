"""Text of other skills that a circuit or an objective may be told to spare.

Every other problem of each retention set's validation half, so that the rest of that half judges what nothing was
fitted to. At most `MOST` a skill, spread over the set.
"""

from __future__ import annotations

from collections.abc import Sequence

from cca.evaluation.drift import solution_texts
from cca.gradients.sampled_likelihood import Text
from cca.problems.problem import Problem
from cca.problems.task import halves
from cca.runs.session import Session

MOST = 100
"""Problems of a skill that anything is fitted to."""


def judging(problems: Sequence[Problem]) -> list[Problem]:
    """The problems of one retention set that drift is judged on while steps are chosen: those that nothing sees."""
    guard = halves(problems)[0]
    return guard[1::2] or guard


def spared_texts(session: Session) -> list[Text]:
    problems = []
    for own in session.task.retention.values():
        spared = halves(own)[0][::2]
        problems += spared[:: max(1, -(-len(spared) // MOST))]
    return solution_texts(problems, session.grader)
