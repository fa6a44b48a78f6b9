"""Pivots of a model that an earlier round edited: traced and branched as a run would, in memory."""

from __future__ import annotations

from collections.abc import Sequence

from cca.engines.engine import request_seed
from cca.errors import CcaError
from cca.pivots.find import find_pivots, pair_traces
from cca.pivots.pivot import Pivot
from cca.pivots.traces import Trace, sample_traces
from cca.runs.config.config import Config
from cca.runs.open import OpenRun


def traced_again(opened: OpenRun, run: Config, traces: Sequence[Sequence[Trace]], number: int) -> list[Pivot]:
    """The branching pivots of the model as it stands, on the problems of ``traces``, those of the first round.

    ``number`` is the round: each has samples of its own. Raises CcaError for pivots of another method.
    """
    if run.pivots.method != "branching":
        raise CcaError(f"rounds: expected pivots.method branching to trace again, got {run.pivots.method}")
    traced = {own[0].problem for own in traces}
    problems = [problem for problem in opened.task.train if problem.id in traced]
    grader, engine, longest = opened.grader, opened.engine, opened.max_new_tokens
    seed = request_seed(run.seed, "round", number)
    made = sample_traces(problems, grader, engine, opened.config.traces, longest, seed)
    settings = run.pivots.model_copy(update={"per_problem": 1})
    found = find_pivots(pair_traces(problems, made), grader, engine, settings, longest, seed)
    return [pivot for of_one_pair in found for pivot in of_one_pair][: run.pivots.most]
