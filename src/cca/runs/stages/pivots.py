"""The pivots stage: the pivots of problems whose traces have opposite verdicts, found chunk by chunk."""

from __future__ import annotations

from collections.abc import Sequence

from cca.engines.engine import Engine
from cca.errors import CcaError
from cca.pivots.find import find_pivots
from cca.pivots.pivot import Pivot, save_pivots, write_pivot_texts
from cca.pivots.settings import PivotsConfig
from cca.pivots.traces import Grader, Pair
from cca.runs.folder.stage_files import StageFiles
from cca.runs.folder.stage_inputs import PIVOTS_LOG
from cca.runs.progress.progress import RunProgress
from cca.runs.stages.parallel_chunks import chunked, in_order, one_at_a_time

FILE = "pivots.jsonl"
LOG_FORMAT, LOG_VERSION = "cca.pivots-log", 3
SHOWN_PIVOTS = 50
"""Pivots whose text is written out for the report's page."""


def run_pivots(
    files: StageFiles,
    pairs: Sequence[Pair],
    grader: Grader,
    engine: Engine,
    settings: PivotsConfig,
    chunk: int,
    max_new_tokens: int,
    seed: int,
    progress: RunProgress,
) -> None:
    """Write ``pivots.jsonl``. Raises CcaError when no pair has a pivot."""
    log = files.log(PIVOTS_LOG, LOG_FORMAT, LOG_VERSION, chunk, len(pairs))
    rows = log.rows()
    found = [Pivot.from_row(pivot) for row in rows for pivot in row["pivots"]]
    with files.timed(), progress.work("pivots", len(pairs)) as report:
        report(len(rows))
        report_one = one_at_a_time(report)

        def find(own: Sequence[Pair]) -> list[list[Pivot]]:
            return find_pivots(own, grader, engine, settings, max_new_tokens, seed, report_one)

        chunks = chunked(pairs[len(rows) :], chunk)
        made_of = in_order(chunks, find, engine.parallel_chunks)
        for own in chunks:
            if settings.most is not None and len(found) >= settings.most:
                break
            made = next(made_of)
            log.append(
                [
                    {"problem": problem.id, "pivots": [pivot.to_row() for pivot in pivots]}
                    for (problem, _, _), pivots in zip(own, made, strict=True)
                ]
            )
            found += [pivot for pivots in made for pivot in pivots]
            files.chunk_done()
    found = found[: settings.most]
    if not found:
        raise CcaError(
            "pivots: expected a pivot in some pair of traces with opposite verdicts, found none; "
            "sample more (traces.samples)"
        )
    write_pivot_texts(files / "pivots_text.jsonl", found[:SHOWN_PIVOTS], grader.codec)
    save_pivots(files / FILE, found, made_from=files.made_from)
