"""How well pivots are found where they are known: precision and recall against planted wrong moves.

A model organism's problems carry the right solution and solutions with one planted wrong move. The true pivot is where
the two token sequences part: that prefix, and that pair of tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cca.engines.engine import Tokens
from cca.pivots.pivot import Pivot, first_difference
from cca.pivots.traces import Grader
from cca.problems.problem import Problem

TruePivot = tuple[Tokens, int, int]  # prefix, right token, wrong token


def true_pivots(problem: Problem, grader: Grader) -> set[TruePivot]:
    """The pivots that were planted in a problem; empty where none were."""
    if not problem.solution:
        return set()
    right = grader.codec.encode_continuation(problem.solution)
    found: set[TruePivot] = set()
    for text in problem.planted:
        wrong = grader.codec.encode_continuation(text)
        at = first_difference(right, wrong)
        if at is not None:
            found.add((right[:at], right[at], wrong[at]))
    return found


def localisation(
    pivots: Sequence[Pivot], problems: Sequence[Problem], grader: Grader
) -> dict[str, Any] | None:
    """Precision (of the pivots on problems with planted moves) and recall (of those problems); None without any.

    A pivot counts as found when its prefix and both its tokens are the planted ones.
    """
    truth = {problem.id: planted for problem in problems if (planted := true_pivots(problem, grader))}
    if not truth:
        return None
    judged = [pivot for pivot in pivots if pivot.problem in truth]
    hits = {p.problem for p in judged if (p.prefix, p.desired, p.undesired) in truth[p.problem]}
    same_place = {p.problem for p in judged if p.prefix in {prefix for prefix, _, _ in truth[p.problem]}}
    return {
        "planted": len(truth),
        "found": len(judged),
        "precision": len(hits) / len(judged) if judged else 0.0,
        "recall": len(hits) / len(truth),
        "precision_of_place": len(same_place) / len(judged) if judged else 0.0,
    }
