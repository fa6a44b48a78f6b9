"""Pivots of a model that an earlier round edited: traced and branched as a run would, in memory."""

from __future__ import annotations

from cca.engines.engine import request_seed
from cca.errors import CcaError
from cca.pivots.branching import branching_pivots
from cca.pivots.pivot import Pivot
from cca.pivots.traces import TraceSettings, opposite, paired_traces
from cca.runs.config.config import Config
from cca.runs.session import Session
from cca.runs.stages import stages


def traced_anew(session: Session, run: Config, number: int) -> list[Pivot]:
    """The branching pivots of the model as it stands, on the problems that the first round traced.

    ``number`` is the round: each samples anew. Raises CcaError for pivots of another method.
    """
    if run.pivots.method != "branching":
        raise CcaError(f"rounds: expected pivots.method branching to trace anew, got {run.pivots.method}")
    traced = {own[0].problem for own in stages.traces(session)}
    problems = [problem for problem in session.task.train if problem.id in traced]
    asked = session.config.traces
    settings = TraceSettings(
        samples=asked.samples,
        temperature_when_right=asked.temperature_when_right,
        temperature_when_wrong=asked.temperature_when_wrong,
        max_new_tokens=session.max_new_tokens,
        seed=request_seed(run.seed, "round", number),
    )
    made = paired_traces(problems, session.grader, session.engine, settings)
    pairs = [
        (problem, own[0], sampled)
        for problem, own in zip(problems, made, strict=True)
        if (sampled := opposite(own)) is not None
    ]
    found = branching_pivots(pairs, session.grader, session.engine, session.max_new_tokens)
    return [pivot for pivot in found if pivot is not None][: run.pivots.most]
