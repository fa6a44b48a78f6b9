"""The traces stage: greedy and sampled traces of the training problems, appended to ``traces.jsonl`` by chunks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cca.engines.engine import Engine
from cca.errors import CcaError
from cca.evaluation.answers import UNTOUCHED, Answering
from cca.files import Row
from cca.pivots.settings import TracesConfig
from cca.pivots.traces import FORMAT, VERSION, Grader, Trace, opposite, sample_traces
from cca.problems.problem import Problem
from cca.runs.folder.row_log import rows_so_far
from cca.runs.folder.stage_files import StageFiles
from cca.runs.progress import RunProgress
from cca.runs.stages.parallel_chunks import chunked, in_order, one_at_a_time

FILE = "traces.jsonl"
TOLD_CUT_OFF, MOST_CUT_OFF = 0.05, 0.25
"""Shares of greedy traces cut off: of the first chunk from which it is said, of all from which a run is refused."""


def run_traces(
    files: StageFiles,
    problems: Sequence[Problem],
    grader: Grader,
    engine: Engine,
    settings: TracesConfig,
    max_new_tokens: int,
    seed: int,
    progress: RunProgress,
    most_chunks: int | None = None,
) -> None:
    """Sample the traces that ``traces.jsonl`` lacks, at most ``most_chunks`` chunks of them."""
    log = files.log(FILE, FORMAT, VERSION, settings.chunk, len(problems))
    rows = log.rows()
    known = len(rows)
    if known == len(problems):
        return
    with files.timed(), progress.work("traces: greedy and sampled", len(problems)) as report:
        report(known)
        report_one = one_at_a_time(report)
        chunks = chunked(problems[known:], settings.chunk)[:most_chunks]

        def sample(own: Sequence[Problem]) -> list[list[Trace]]:
            return sample_traces(own, grader, engine, settings, max_new_tokens, seed, report_one)

        done = read_traces(files / FILE, rows)
        for made in in_order(chunks, sample, engine.parallel_chunks):
            log.append([{"problem": own[0].problem, "traces": [trace.to_row() for trace in own]} for own in made])
            done += made
            if len(done) == len(made) and (note := _much_cut_off(done, max_new_tokens)):
                files.note(note)
            check_cut_off(done, len(problems), max_new_tokens, settings.allow_cut_off)
            files.chunk_done()


def _much_cut_off(traces: Sequence[Sequence[Trace]], max_new_tokens: int) -> str | None:
    """A note where the longest completion is shorter than the base needs."""
    count = sum(own[0].cut_off for own in traces)
    if count <= TOLD_CUT_OFF * len(traces):
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


def traces_done(files: StageFiles) -> bool:
    """True when ``traces.jsonl`` has all its rows."""
    rows, total = rows_so_far(files / FILE)
    return total is not None and len(rows) == total


def load_traces(path: Path) -> list[list[Trace]]:
    """The traces of each problem in a file of whole chunks, the greedy one first."""
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
