"""The first four stages of a run, each from the files of the one before. A stage whose file is there is read, not
repeated::

    traces.jsonl -> pivots.jsonl -> circuit.jsonl -> patch.safetensors + amplify.json
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from cca.amplify.patch import Patch
from cca.amplify.patch_file import load_patch, save_patch
from cca.amplify.update import Amplified, StepRecord, UpdateSettings, amplify
from cca.circuits.attribution import attribution_circuit, gate_gradient
from cca.circuits.circuit import Circuit, load_circuit, save_circuit
from cca.circuits.controls import random_circuit, whole_model
from cca.circuits.masking import MaskSettings, learn_mask
from cca.circuits.size import Size
from cca.errors import CcaError
from cca.files import Row, read_json, read_jsonl, write_json
from cca.pivots.branching import branching_pivots
from cca.pivots.pivot import Pivot, first_difference, load_pivots, make_pivot, save_pivots
from cca.pivots.texts import write_pivot_texts
from cca.pivots.traces import FORMAT as TRACES
from cca.pivots.traces import VERSION as TRACES_VERSION
from cca.pivots.traces import Trace, TraceSettings, opposite, paired_traces
from cca.problems.problem import Problem
from cca.runs.directory import ChunkLog, config_fingerprint
from cca.runs.session import Session
from cca.runs.validating import Validator, answers


SHOWN_PIVOTS = 50
"""Pivots whose text is written out for the report's page."""


def traces(session: Session) -> list[list[Trace]]:
    """For each training problem its greedy trace and its samples. Raises CcaError when nothing can be paired."""
    settings = session.config.traces
    problems = _training_problems(session)
    log = ChunkLog(
        session.folder / "traces.jsonl",
        TRACES,
        TRACES_VERSION,
        config_fingerprint(session.config),
        settings.chunk,
    )
    rows = log.rows(len(problems))
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
            for start in range(len(rows), len(problems), settings.chunk):
                chunk = problems[start : start + settings.chunk]
                made = paired_traces(chunk, session.grader, session.engine, wanted, progress)
                log.append(
                    [{"problem": own[0].problem, "traces": [trace.to_row() for trace in own]} for own in made]
                )
        rows = log.rows(len(problems))
    loaded = [[Trace.from_row(trace) for trace in row["traces"]] for row in rows]
    _check_pairable(session, loaded)
    return loaded


def pivots(session: Session) -> list[Pivot]:
    """One pivot a problem whose traces have opposite verdicts."""
    own_traces = traces(session)
    path, made_from = session.folder / "pivots.jsonl", content_hash(session.folder / "traces.jsonl")
    if not path.exists():
        problems = {problem.id: problem for problem in session.task.train}
        pairs = [
            (problems[own[0].problem], own[0], sampled)
            for own in own_traces
            if (sampled := opposite(own)) is not None
        ]
        with session.timed("pivots"), session.narrator.work("pivots", len(pairs)) as progress:
            if session.config.pivots.method == "branching":
                found = branching_pivots(
                    pairs, session.grader, session.engine, session.max_new_tokens, progress
                )
            else:
                found = [_first_difference_pivot(session, *pair) for pair in pairs]
        kept = [pivot for pivot in found if pivot is not None][: session.config.pivots.most]
        if not kept:
            raise CcaError(
                "pivots: no pair of traces with opposite verdicts has a pivot; sample more (traces.samples)"
            )
        write_pivot_texts(session.folder / "pivots_text.jsonl", kept[:SHOWN_PIVOTS], session.grader.codec)
        save_pivots(path, kept, made_from=made_from)
    _check_header(path, made_from)
    return load_pivots(path)


def circuit(session: Session) -> Circuit:
    """The components to amplify."""
    own_pivots = pivots(session)
    path, made_from = session.folder / "circuit.jsonl", content_hash(session.folder / "pivots.jsonl")
    if not path.exists():
        with session.timed("circuit"):
            located = _locate(session, own_pivots)
        if not len(located):
            raise CcaError(
                "circuit: no component was chosen; lower circuit.penalty or ask for a larger circuit.size"
            )
        save_circuit(path, located, made_from=made_from)
    _check_header(path, made_from)
    return load_circuit(path)


def patch(session: Session) -> Patch:
    """The best validated step on the circuit's rows."""
    own_pivots, own_circuit = pivots(session), circuit(session)
    path = session.folder / "patch.safetensors"
    made_from = content_hash(session.folder / "circuit.jsonl")
    if not path.exists():
        with session.timed("amplify"):
            amplified = run_amplify(session, own_circuit, own_pivots, Validator(session), "amplify")
        write_json(session.folder / "amplify.json", amplify_summary(amplified, made_from))
        save_patch(path, make_patch(session, own_circuit, amplified))
    check_made_from(path, read_json(session.folder / "amplify.json").get("made_from"), made_from)
    return load_patch(path)


def run_amplify(
    session: Session, circuit: Circuit, pivots: Sequence[Pivot], validator: Validator, what: str
) -> Amplified:
    settings = session.config.amplify
    wanted = UpdateSettings(**{f.name: getattr(settings, f.name) for f in fields(UpdateSettings)})
    validator.prepare()
    with session.narrator.work(f"{what}: steps on {len(circuit)} components", settings.steps) as progress:

        def told(record: StepRecord) -> None:
            progress(1 if record.step else 0)

        return amplify(session.model, session.anatomy, circuit, pivots, wanted, validator, told)


def make_patch(session: Session, circuit: Circuit, amplified: Amplified) -> Patch:
    trained = amplified.trained
    edits = [
        (name, axis, trained.rows[name, axis].indices, trained.before[name, axis], after)
        for (name, axis), after in amplified.rows.items()
    ]
    made_by = {"config": session.config.model_dump(mode="json"), "best_step": amplified.best_step}
    return Patch.from_edits(
        session.model,
        edits,
        base_model=session.config.model,
        base_revision=session.config.revision,
        circuit=[str(component) for component in circuit.components],
        made_by=made_by,
    )


def amplify_summary(amplified: Amplified, made_from: str) -> Row:
    return {
        "format": "cca.amplify",
        "version": 1,
        "made_from": made_from,
        "best_step": amplified.best_step,
        "coefficient": amplified.coefficient,
        "history": [record.to_row() for record in amplified.history],
    }


def _locate(session: Session, pivots: Sequence[Pivot]) -> Circuit:
    settings, anatomy, rows = session.config.circuit, session.anatomy, session.config.amplify.rows
    match settings.localiser:
        case "dcm":
            wanted = MaskSettings(
                seed=session.config.seed,
                **{f.name: getattr(settings, f.name) for f in fields(MaskSettings) if f.name != "seed"},
            )
            with session.narrator.work("circuit: learning the mask", settings.epochs) as progress:
                return learn_mask(session.model, anatomy, pivots, wanted, progress).circuit(
                    anatomy, wanted.threshold
                )
        case "file":
            if settings.file is None:
                raise CcaError(
                    "circuit.localiser file: expected circuit.file to name a circuit file, got none"
                )
            given = load_circuit(settings.file)
            anatomy.rows(given.components)  # refuses components the model lacks
            return given
        case "all":
            return whole_model(anatomy)
    size = Size.parse(settings.size)
    if settings.localiser == "random":
        return _random(session, settings.kinds, size)
    with session.narrator.work("circuit: attribution", len(pivots)) as progress:
        gradient = gate_gradient(session.model, anatomy, pivots, progress=progress)
    return attribution_circuit(gradient, anatomy, settings.sign, settings.kinds, size, rows)


def _random(session: Session, kinds: Sequence[str], size: Size) -> Circuit:
    generator = torch.Generator().manual_seed(session.config.seed)
    counts = size.counts(session.anatomy, kinds, session.config.amplify.rows)
    first = [c for kind, count in counts.items() for c in list(session.anatomy.components([kind]))[:count]]
    return random_circuit(session.anatomy, Circuit.of(first, "size"), generator)


def _training_problems(session: Session) -> list[Problem]:
    """The training problems, of the templates that the base is bad at where that is asked for (paper, section 4)."""
    below = session.config.traces.templates_below
    problems = list(session.task.train)
    if below is None:
        return problems
    path = session.folder / "templates.json"
    if not path.exists():
        with session.timed("traces"), session.narrator.work("templates: base accuracy", None):
            results = answers(session, problems, session.max_new_tokens)
        names = sorted({problem.template for problem in problems})
        write_json(path, {name: results.of_templates({name}).accuracy for name in names})
    accuracy: dict[str, Any] = read_json(path)
    kept = [problem for problem in problems if accuracy[problem.template] < below]
    if not kept:
        raise CcaError(
            f"traces: the base does every template at {below:.0%} or better; raise traces.templates_below "
            f"(lowest: {min(accuracy.values()):.0%})"
        )
    return kept


def _check_pairable(session: Session, traces: Sequence[Sequence[Trace]]) -> None:
    right = sum(own[0].right for own in traces) / len(traces)
    if right < 1 and any(opposite(own) for own in traces):
        return
    sampled = session.config.traces.samples
    advice = "a harder task" if right > 0.5 else "an easier task, another prompt or another judge"
    raise CcaError(
        f"traces: there is nothing to pair: greedy accuracy is "
        f"{right:.1%} on {len(traces)} problems, and of up to {sampled} samples a problem none settles it otherwise; expected a model "
        f"that is sometimes right and sometimes wrong; try {advice}"
    )


def _first_difference_pivot(
    session: Session, problem: Problem, greedy: Trace, sampled: Trace
) -> Pivot | None:
    at = first_difference(sampled.token_ids, greedy.token_ids)
    if at is None:
        return None
    return make_pivot(
        problem.id, problem.template, session.grader.prompt_ids(problem), sampled.token_ids[:at],
        sampled=sampled.token_ids[at], greedy=greedy.token_ids[at], greedy_right=greedy.right,
        method="first-difference", sample=sampled.sample,
    )  # fmt: skip


def content_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def check_made_from(path: Path, found: Any, made_from: str) -> None:
    """Raise CcaError unless the file says it was made from the input that is there now."""
    if found != made_from:
        raise CcaError(f"{path}: was made from other data than is there now; delete it to make it again")


def _check_header(path: Path, made_from: str) -> None:
    header = next((row for _, row in read_jsonl(path)), {})
    check_made_from(path, header.get("made_from"), made_from)
