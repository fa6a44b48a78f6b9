"""The pivots stage: the method that the configuration names, run on the pairs of traces, chunk by chunk."""

from __future__ import annotations

from collections.abc import Sequence

from cca.engines.engine import Progress
from cca.pivots.branching import several_branching_pivots
from cca.pivots.pivot import Pivot, first_difference, make_pivot
from cca.pivots.success_rate import SuccessRateSettings, success_rate_pivots
from cca.pivots.traces import Trace
from cca.problems.problem import Problem
from cca.runs.folder.row_log import ChunkLog
from cca.runs.folder.stage_inputs import PIVOTS_LOG
from cca.runs.session import Session
from cca.runs.stages.parallel_chunks import chunked, in_order, one_at_a_time

Pair = tuple[Problem, Trace, Trace]
"""A problem, its greedy trace and a sampled one of the opposite verdict."""
LOG_VERSION = 3


def find_pivots(session: Session, pairs: Sequence[Pair], made_from: str) -> list[Pivot]:
    """The pivots of ``pairs``, at most as many as asked for."""
    chunk, most = session.config.traces.chunk, session.config.pivots.most
    log = ChunkLog(session.folder / PIVOTS_LOG, "cca.pivots-log", LOG_VERSION, made_from, chunk, len(pairs))
    rows = log.rows()
    found = [Pivot.from_row(pivot) for row in rows for pivot in row["pivots"]]
    with session.timed("pivots"), session.narrator.work("pivots", len(pairs)) as progress:
        progress(len(rows))
        tell, chunks = one_at_a_time(progress), chunked(pairs[len(rows) :], chunk)
        found_of = in_order(chunks, lambda own: pivots_of(session, own, tell), session.engine.parallel_chunks)
        for own in chunks:
            if most is not None and len(found) >= most:
                break
            made = next(found_of)
            log.append(
                [
                    {"problem": problem.id, "pivots": [pivot.to_row() for pivot in pivots]}
                    for (problem, _, _), pivots in zip(own, made, strict=True)
                ]
            )
            found += [pivot for pivots in made for pivot in pivots]
            session.chunk_done()
    return found[:most]


def pivots_of(session: Session, pairs: Sequence[Pair], progress: Progress | None = None) -> list[list[Pivot]]:
    """The pivots of each pair."""
    settings, new_tokens = session.config.pivots, session.max_new_tokens
    match settings.method:
        case "branching":
            return several_branching_pivots(
                pairs, session.grader, session.engine, new_tokens, settings.per_problem, progress
            )
        case "success-rate":
            wanted = SuccessRateSettings(
                settings.threshold, settings.samples, settings.temperature,
                per_problem=settings.per_problem, max_new_tokens=new_tokens, seed=session.config.seed,
            )  # fmt: skip
            return success_rate_pivots(pairs, session.grader, session.engine, wanted, progress)
    if progress:
        progress(len(pairs))
    return [_first_difference_pivots(session, *pair) for pair in pairs]


def _first_difference_pivots(
    session: Session, problem: Problem, greedy: Trace, sampled: Trace
) -> list[Pivot]:
    at = first_difference(sampled.token_ids, greedy.token_ids)
    if at is None:
        return []
    pivot = make_pivot(
        problem.id, problem.template, session.grader.prompt_ids(problem), sampled.token_ids[:at],
        sampled=sampled.token_ids[at], greedy=greedy.token_ids[at], greedy_right=greedy.right,
        method="first-difference", sample=sampled.sample,
    )  # fmt: skip
    return [pivot]
