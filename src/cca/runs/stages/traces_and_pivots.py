"""The traces and pivots stages: both go through the problems chunk by chunk, and append what they make to a log.

Where an engine has several copies of the model, chunks are worked on next to each other. What a chunk asks of the
engine does not depend on the others, so its results, and the log, are those of chunks done one after the other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import TypeVar

from cca.engines.engine import Engine, Progress
from cca.errors import CcaError
from cca.evaluation.answers import UNTOUCHED, Answering
from cca.files import Row
from cca.pivots.find import find_pivots
from cca.pivots.pivot import Pivot, save_pivots, write_pivot_texts
from cca.pivots.settings import PivotsConfig, TracesConfig
from cca.pivots.traces import FORMAT, VERSION, Grader, Pair, Trace, opposite, sample_traces
from cca.problems.problem import Problem
from cca.runs.folder.row_log import RowLog, rows_so_far
from cca.runs.folder.stage_files import PIVOTS_LOG, StageFiles

TRACES, PIVOTS = "traces.jsonl", "pivots.jsonl"
NOTED_CUT_OFF, MOST_CUT_OFF = 0.05, 0.25
"""Shares of greedy traces cut off: of the first chunk from which it is noted, of all from which a run is refused."""
SHOWN_PIVOTS = 50
"""Pivots whose text is written out for the report's page."""
Item = TypeVar("Item")
Made = TypeVar("Made")


def run_traces(
    files: StageFiles,
    problems: Sequence[Problem],
    grader: Grader,
    engine: Engine,
    settings: TracesConfig,
    max_new_tokens: int,
    seed: int,
    one_chunk: bool = False,
) -> list[list[Trace]]:
    """Sample the traces that ``traces.jsonl`` lacks, or ``one_chunk`` of them; returns all there are."""
    log = files.log(TRACES, FORMAT, VERSION, settings.chunk, len(problems))
    done = read_traces(log.path, log.rows())

    def sample(own: Sequence[Problem], report: Progress) -> list[list[Trace]]:
        return sample_traces(own, grader, engine, settings, max_new_tokens, seed, report)

    def row(problem: Problem, own: list[Trace]) -> Row:
        return {"problem": problem.id, "traces": [trace.to_row() for trace in own]}

    def goes_on(made: Sequence[list[Trace]]) -> bool:
        if not done and (note := _much_cut_off(made, max_new_tokens)):
            files.note(note)
        done.extend(made)
        check_cut_off(done, len(problems), max_new_tokens, settings.allow_cut_off)
        return not one_chunk

    check_cut_off(done, len(problems), max_new_tokens, settings.allow_cut_off)
    if len(done) < len(problems):
        what = "traces: greedy and sampled"
        _append_chunks(files, log, what, problems, len(done), sample, row, goes_on, engine.parallel_chunks)
    return done


def run_pivots(
    files: StageFiles,
    pairs: Sequence[Pair],
    grader: Grader,
    engine: Engine,
    settings: PivotsConfig,
    chunk: int,
    max_new_tokens: int,
    seed: int,
) -> None:
    """Write ``pivots.jsonl``. Raises CcaError when no pair has a pivot."""
    log = files.log(PIVOTS_LOG, "cca.pivots-log", 3, chunk, len(pairs))
    rows = log.rows()
    found = [Pivot.from_row(pivot) for row in rows for pivot in row["pivots"]]

    def find(own: Sequence[Pair], report: Progress) -> list[list[Pivot]]:
        return find_pivots(own, grader, engine, settings, max_new_tokens, seed, report)

    def row(pair: Pair, own: list[Pivot]) -> Row:
        return {"problem": pair[0].id, "pivots": [pivot.to_row() for pivot in own]}

    def goes_on(made: Sequence[list[Pivot]]) -> bool:
        found.extend(pivot for own in made for pivot in own)
        return settings.most is None or len(found) < settings.most

    if goes_on([]):
        _append_chunks(files, log, "pivots", pairs, len(rows), find, row, goes_on, engine.parallel_chunks)
    found = found[: settings.most]
    if not found:
        raise CcaError(
            "pivots: expected a pivot in some pair of traces with opposite verdicts, found none; "
            "sample more (traces.samples)"
        )
    write_pivot_texts(files / "pivots_text.jsonl", found[:SHOWN_PIVOTS], grader.codec)
    save_pivots(files / PIVOTS, found, made_from=files.made_from)


def _append_chunks(
    files: StageFiles,
    log: RowLog,
    what: str,
    items: Sequence[Item],
    known: int,
    work: Callable[[Sequence[Item], Progress], list[Made]],
    row: Callable[[Item, Made], Row],
    goes_on: Callable[[list[Made]], bool],
    at_once: int,
) -> None:
    """Work on the items after the ``known`` ones, ``at_once`` chunks together; each chunk's rows go into the log.

    ``goes_on`` takes what a chunk made, in order, once it is on disk; False ends the work.
    """
    lock = Lock()
    with files.timed(), files.progress.work(what, len(items)) as report:
        report(known)

        def report_one(done: int) -> None:
            with lock:
                report(done)

        chunks = [items[start : start + log.chunk] for start in range(known, len(items), log.chunk)]
        for own, made in zip(chunks, in_order(chunks, lambda own: work(own, report_one), at_once), strict=True):
            log.append([row(item, each) for item, each in zip(own, made, strict=True)])
            goes = goes_on(made)
            files.chunk_done()
            if not goes:
                break


def in_order(chunks: Iterable[Item], work: Callable[[Item], Made], at_once: int) -> Iterator[Made]:
    """``work`` on every chunk, ``at_once`` of them together; what is begun and not asked for any more is let go."""
    if at_once == 1:
        yield from map(work, chunks)
        return
    pool, begun, left = ThreadPoolExecutor(at_once, "chunk"), deque[Future[Made]](), iter(chunks)
    try:
        while True:
            while len(begun) < at_once and (chunk := next(left, None)) is not None:
                begun.append(pool.submit(work, chunk))
            if not begun:
                return
            yield begun.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _much_cut_off(traces: Sequence[Sequence[Trace]], max_new_tokens: int) -> str | None:
    """A note where the longest completion is shorter than the base needs."""
    count = sum(own[0].cut_off for own in traces)
    if count <= NOTED_CUT_OFF * len(traces):
        return None
    return (
        f"traces: {count} of the first {len(traces)} greedy answers were cut off at {max_new_tokens} tokens; "
        "raise traces.max_new_tokens"
    )


def check_cut_off(traces: Sequence[Sequence[Trace]], total: int, max_new_tokens: int, allowed: bool) -> None:
    """Raise CcaError once more than a quarter of the greedy traces, ``total`` in all, are cut off."""
    count = sum(own[0].cut_off for own in traces)
    if count > MOST_CUT_OFF * total and not allowed:
        raise CcaError(
            f"traces: {count} of {len(traces)} greedy traces were cut off at {max_new_tokens} tokens before their "
            "answer; raise traces.max_new_tokens, or set traces.allow_cut_off: true"
        )


def finished_traces(files: StageFiles) -> list[list[Trace]] | None:
    """The traces of each problem; None where ``traces.jsonl`` does not have all its rows."""
    rows, total = rows_so_far(files / TRACES)
    return read_traces(files / TRACES, rows) if len(rows) == total else None


def load_traces(path: Path) -> list[list[Trace]]:
    """The traces so far of each problem, the greedy one first."""
    return read_traces(path, rows_so_far(path)[0])


def read_traces(path: Path, rows: Sequence[Row]) -> list[list[Trace]]:
    """The traces of each row of a log, the greedy one first. Raises CcaError for other rows."""
    read: list[list[Trace]] = []
    for row in rows:
        own = row.get("traces")
        if not isinstance(own, list) or not own:
            raise CcaError(f"{path}: expected rows with the traces of a problem, got {row!r:.120}")
        try:
            read.append([Trace.from_row(trace) for trace in own])
        except CcaError as error:
            raise CcaError(f"{path}: {error}") from error
        samples = [trace.sample for trace in read[-1]]
        problems = {trace.problem for trace in read[-1]}
        if samples != list(range(len(samples))) or problems != {row.get("problem")}:
            raise CcaError(f"{path}: expected the greedy trace of {row.get('problem')!r} and its samples in order")
    return read


def hard_problems(
    problems: Sequence[Problem], below: float, answering: Answering, max_new_tokens: int
) -> list[Problem]:
    """The problems of templates where the base's greedy accuracy is lower than ``below`` (paper, section 4)."""
    results = answering.answers(problems, max_new_tokens, UNTOUCHED, drafts=False)
    names = sorted({problem.template for problem in problems})
    accuracy = {name: results.of_templates({name}).accuracy for name in names}
    hard = [problem for problem in problems if accuracy[problem.template] < below]
    if not hard:
        raise CcaError(
            f"traces: the base does every template at {below:.0%} or better; raise traces.templates_below "
            f"(lowest: {min(accuracy.values()):.0%})"
        )
    return hard


def check_pairable(traces: Sequence[Sequence[Trace]], samples: int) -> None:
    """Raises CcaError when no problem has traces of both verdicts."""
    right = sum(own[0].right for own in traces) / len(traces)
    if right < 1 and any(opposite(own) for own in traces):
        return
    none = f", and none of the {samples} samples of any problem had the opposite verdict" if right < 1 else ""
    advice = "a harder task" if right > 0.5 else "an easier task, another prompt or another judge"
    raise CcaError(
        f"traces: there is nothing to pair: greedy accuracy is {right:.1%} on {len(traces)} problems{none}; "
        f"expected a model that is sometimes right and sometimes wrong; try {advice}"
    )
