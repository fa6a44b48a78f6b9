"""From traces to pivots: problems whose traces have opposite verdicts, and the method that the settings name."""

from __future__ import annotations

from collections.abc import Sequence

from cca.engines.engine import Engine, Progress
from cca.pivots.branching import branching_pivots
from cca.pivots.pivot import Pivot, first_difference, make_pivot
from cca.pivots.settings import PivotsConfig
from cca.pivots.success_rate import success_rate_pivots
from cca.pivots.traces import Grader, Pair, Trace, opposite
from cca.problems.problem import Problem


def pair_traces(problems: Sequence[Problem], traces: Sequence[Sequence[Trace]]) -> list[Pair]:
    """(problem, greedy trace, first sampled trace of the opposite verdict), for the problems that have one.

    ``traces`` holds the traces of one problem per item, the greedy one first, in any order and for any part of
    ``problems``.
    """
    by_id = {problem.id: problem for problem in problems}
    return [(by_id[own[0].problem], own[0], sampled) for own in traces if (sampled := opposite(own)) is not None]


def find_pivots(
    pairs: Sequence[Pair],
    grader: Grader,
    engine: Engine,
    settings: PivotsConfig,
    max_new_tokens: int,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[list[Pivot]]:
    """The pivots of each pair (paper, section 3.1), at most ``settings.per_problem``; some pairs have none.

    ``settings.most`` is the caller's to apply. Raises CcaError for an engine that the method cannot use.
    """
    match settings.method:
        case "branching":
            return branching_pivots(pairs, grader, engine, max_new_tokens, settings.per_problem, progress)
        case "success-rate":
            return success_rate_pivots(pairs, grader, engine, settings, max_new_tokens, seed, progress)
    if progress:
        progress(len(pairs))
    return [first_difference_pivots(pair, grader) for pair in pairs]


def first_difference_pivots(pair: Pair, grader: Grader) -> list[Pivot]:
    """The pivot at the first token in which the two traces differ; none where one trace continues the other."""
    problem, greedy, sampled = pair
    at = first_difference(sampled.token_ids, greedy.token_ids)
    if at is None:
        return []
    own = greedy.token_ids[at]
    prompt = grader.prompt_ids(problem)
    return [make_pivot(problem, prompt, sampled, at, own, greedy_right=greedy.right, method="first-difference")]
