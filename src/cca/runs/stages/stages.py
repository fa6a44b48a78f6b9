"""The first four stages of a run, each from the files of the one before. A stage whose file is there is read, not
repeated::

    traces.jsonl -> pivots.jsonl -> circuit.jsonl -> amplify.json + patch.safetensors
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cca.circuits.circuit import Circuit, load_circuit, save_circuit
from cca.errors import CcaError
from cca.evaluation.answers import UNTOUCHED
from cca.files import Row, write_sealed
from cca.patches.patch import Patch
from cca.patches.patch_file import load_patch, save_patch
from cca.pivots.pivot import Pivot, load_pivots, save_pivots
from cca.pivots.texts import write_pivot_texts
from cca.pivots.traces import FORMAT as TRACES
from cca.pivots.traces import VERSION as TRACES_VERSION
from cca.pivots.traces import Trace, TraceSettings, opposite, paired_traces
from cca.problems.problem import Problem
from cca.runs.folder.row_log import ChunkLog
from cca.runs.folder.stage_inputs import MASK, PIVOTS_LOG, STEPS, claim
from cca.runs.replica import as_the_first_has_it
from cca.runs.session import Session
from cca.runs.stages.amplify import AMPLIFY, amplify_summary, make_patch, run_amplify
from cca.runs.stages.answers import answering
from cca.runs.stages.circuit import locate
from cca.runs.stages.parallel_chunks import chunked, in_order, one_at_a_time
from cca.runs.stages.pivots import find_pivots
from cca.runs.stages.validate import validator

SHOWN_PIVOTS = 50
"""Pivots whose text is written out for the report's page."""


def traces(session: Session) -> list[list[Trace]]:
    """For each training problem its greedy trace and its samples. Raises CcaError when nothing can be paired."""
    settings = session.config.traces
    problems = _training_problems(session)
    path, made_from = session.folder / "traces.jsonl", session.made_from("traces")
    log = ChunkLog(path, TRACES, TRACES_VERSION, made_from, settings.chunk, len(problems))
    rows = log.rows()
    if len(rows) < len(problems):
        wanted = TraceSettings(
            samples=settings.samples,
            temperature_when_right=settings.temperature_when_right,
            temperature_when_wrong=settings.temperature_when_wrong,
            max_new_tokens=session.max_new_tokens,
            seed=session.config.seed,
        )
        with (
            session.timed("traces"),
            session.narrator.work("traces: greedy and sampled", len(problems)) as progress,
        ):
            progress(len(rows))
            tell, engine = one_at_a_time(progress), session.engine
            chunks = chunked(problems[len(rows) :], settings.chunk)
            for made in in_order(
                chunks,
                lambda own: paired_traces(own, session.grader, engine, wanted, tell),
                engine.parallel_chunks,
            ):
                log.append(
                    [{"problem": own[0].problem, "traces": [trace.to_row() for trace in own]} for own in made]
                )
                session.chunk_done()
        rows = log.rows()
    loaded = read_traces(path, rows)
    right = sum(own[0].right for own in loaded) / len(loaded)
    session.track(
        {"traces": {"greedy_accuracy": right, "paired": sum(opposite(own) is not None for own in loaded)}}
    )
    _check_pairable(session, loaded)
    return loaded


def pivots(session: Session) -> list[Pivot]:
    """The pivots of problems whose traces have opposite verdicts."""
    own_traces = traces(session)
    path, made_from = session.folder / "pivots.jsonl", session.made_from("pivots")
    if not path.exists():
        problems = {problem.id: problem for problem in session.task.train}
        pairs = [
            (problems[own[0].problem], own[0], sampled)
            for own in own_traces
            if (sampled := opposite(own)) is not None
        ]
        found = find_pivots(session, pairs, made_from)
        if not found:
            raise CcaError(
                "pivots: no pair of traces with opposite verdicts has a pivot; sample more (traces.samples)"
            )
        write_pivot_texts(session.folder / "pivots_text.jsonl", found[:SHOWN_PIVOTS], session.grader.codec)
        save_pivots(path, found, made_from=made_from)
    check_made_from(path, made_from)
    (session.folder / PIVOTS_LOG).unlink(missing_ok=True)
    return load_pivots(path)


def circuit(session: Session) -> Circuit:
    """The components to amplify."""
    own_pivots = pivots(session)
    path, made_from = session.folder / "circuit.jsonl", session.made_from("circuit")
    if not path.exists():
        with session.timed("circuit"):
            located = locate(session, own_pivots, kept_as=made_from)
        save_circuit(path, located, made_from=made_from)
        as_the_first_has_it(path)
        session.chunk_done()
    check_made_from(path, made_from)
    (session.folder / MASK).unlink(missing_ok=True)
    return load_circuit(path)


def patch(session: Session) -> Patch:
    """The best validated step on the circuit's rows."""
    own_pivots, own_circuit = pivots(session), circuit(session)
    path, summary = session.folder / "patch.safetensors", session.folder / "amplify.json"
    made_from = session.made_from("amplify")
    if not path.exists():
        with session.timed("amplify"):
            amplified = run_amplify(session, own_circuit, own_pivots, validator(session), "amplify", STEPS)
        write_sealed(summary, AMPLIFY, 1, {"made_from": made_from, **amplify_summary(amplified)})
        save_patch(path, make_patch(session, own_circuit, amplified))
    check_made_from(summary, made_from)
    (session.folder / STEPS).unlink(missing_ok=True)
    return load_patch(path)


def _training_problems(session: Session) -> list[Problem]:
    """The training problems, of the templates that the base is bad at where that is asked for (paper, section 4)."""
    below = session.config.traces.templates_below
    problems = list(session.task.train)
    if below is None:
        return problems
    with session.timed("traces"), session.narrator.work("templates: base accuracy", None):
        results = answering(session).answers(problems, session.max_new_tokens, UNTOUCHED, drafts=False)
    names = sorted({problem.template for problem in problems})
    accuracy = {name: results.of_templates({name}).accuracy for name in names}
    kept = [problem for problem in problems if accuracy[problem.template] < below]
    if not kept:
        raise CcaError(
            f"traces: the base does every template at {below:.0%} or better; raise traces.templates_below "
            f"(lowest: {min(accuracy.values()):.0%})"
        )
    return kept


def _check_pairable(session: Session, traces: Sequence[Sequence[Trace]]) -> None:
    right = sum(own[0].right for own in traces) / len(traces)
    paired = any(opposite(own) for own in traces)
    if right < 1 and paired:
        return
    none = f", and of up to {session.config.traces.samples} samples a problem none settles it otherwise"
    advice = "a harder task" if right > 0.5 else "an easier task, another prompt or another judge"
    raise CcaError(
        f"traces: there is nothing to pair: greedy accuracy is {right:.1%} on {len(traces)} problems"
        f"{'' if paired else none}; expected a model that is sometimes right and sometimes wrong; try {advice}"
    )


def read_traces(path: Path, rows: Sequence[Row]) -> list[list[Trace]]:
    """The traces of each row, the greedy one first. Raises CcaError for rows that are none."""
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
        if samples != list(range(len(samples))) or {trace.problem for trace in read[-1]} != {
            row.get("problem")
        }:
            raise CcaError(
                f"{path}: expected the greedy trace of {row.get('problem')!r} and its samples in order"
            )
    return read


def check_made_from(path: Path, made_from: str) -> None:
    """Raise CcaError unless the file says it was made from the input that is there now."""
    if claim(path) != made_from:
        raise CcaError(f"{path}: was made from other data than is there now; delete it to make it again")
