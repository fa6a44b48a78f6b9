"""A run: every stage once, in order, each handed what the stages before it made.

    traces -> pivots -> circuit -> patch -> evaluation -> report

A stage whose file is there, made from the present inputs, is read and not repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cca.amplify.settings import BudgetConfig
from cca.circuits.circuit import Circuit, load_circuit
from cca.circuits.settings import CircuitConfig
from cca.evaluation.validation import Validator
from cca.files import Row, read_sealed, write_json, write_text
from cca.patches.patch import Patch
from cca.patches.patch_file import load_patch
from cca.pivots.find import pair_traces
from cca.pivots.pivot import Pivot, load_pivots
from cca.pivots.traces import Trace, opposite
from cca.problems.problem import Problem
from cca.reports.page import render_page
from cca.reports.report import make_report
from cca.runs.config import Config
from cca.runs.costs import FILE as COSTS
from cca.runs.costs import read_costs
from cca.runs.folder.provenance import model_commit
from cca.runs.folder.run_folder import RunFolder, without_out
from cca.runs.folder.stage_files import CONTROL, MASK, PATCH, PIVOTS_LOG, STEPS, StageFiles
from cca.runs.open import OpenRun, open_run
from cca.runs.progress import RunProgress
from cca.runs.stages.amplify import AMPLIFY, SUMMARY, Training, run_amplify
from cca.runs.stages.circuit import FILE as CIRCUIT
from cca.runs.stages.circuit import run_circuit
from cca.runs.stages.evaluate import FILE as EVALUATION
from cca.runs.stages.evaluate import FORMAT as EVALUATION_FORMAT
from cca.runs.stages.evaluate import NO_BUDGET, run_evaluate
from cca.runs.stages.traces_and_pivots import (
    PIVOTS,
    check_cut_off,
    check_pairable,
    finished_traces,
    hard_problems,
    run_pivots,
    run_traces,
)  # fmt: skip


def run(config: Config, progress: RunProgress, fork_of: Path | None = None) -> Row:
    """Run or resume everything; returns the report. Raises CcaError with one line for anything it cannot use."""
    with open_run(config, progress, fork_of) as opened:
        run_stages(opened)
        report = write_report(opened.folder.path)
        assert report is not None
        return report


def run_stage(config: Config, stage: str, progress: RunProgress) -> None:
    """Run one stage, and those before it that are still pending."""
    with open_run(config, progress) as opened:
        run_stages(opened, stage)


def run_stages(run: OpenRun, last: str = "evaluate") -> None:
    """Every stage in order, up to ``last``."""
    traces = make_traces(run)
    if last == "traces":
        return
    pivots = make_pivots(run, traces)
    del traces  # the largest of the files in memory
    if last == "pivots":
        return
    circuit = make_circuit(run, pivots)
    if last == "circuit":
        return
    patch = make_patch(run, pivots, circuit)
    if last == "amplify":
        return
    make_evaluation(run, pivots, circuit, patch)


def make_traces(run: OpenRun) -> list[list[Trace]]:
    """Per training problem its greedy trace, then its samples. Raises CcaError when nothing can be paired."""
    files, settings, limit = run.files("traces"), run.config.traces, run.max_new_tokens
    traces = finished_traces(files)
    if traces is None:
        traces = begin_traces(run, files)
    files.check()
    check_cut_off(traces, len(traces), limit, settings.allow_cut_off)
    right, cut_off = (sum(getattr(own[0], flag) for own in traces) / len(traces) for flag in ("right", "cut_off"))
    run.progress.say(f"traces: {cut_off:.1%} of the greedy traces were cut off at {limit} tokens")
    run.track({"traces": {"greedy_accuracy": right, "paired": sum(opposite(t) is not None for t in traces)}})
    check_pairable(traces, settings.samples)
    return traces


def begin_traces(run: OpenRun, files: StageFiles, one_chunk: bool = False) -> list[list[Trace]]:
    """The traces with those that were missing, or with ``one_chunk`` of them."""
    config, problems = run.config, training_problems(run)
    limit = run.max_new_tokens
    return run_traces(files, problems, run.grader, run.engine, config.traces, limit, config.seed, one_chunk)


def training_problems(run: OpenRun) -> Sequence[Problem]:
    """The training problems: of the templates that the base is bad at where the configuration says so."""
    below = run.config.traces.templates_below
    if below is None:
        return run.task.train
    with run.costs.timed("traces"), run.progress.work("templates: base accuracy", None):
        return hard_problems(run.task.train, below, run.answering, run.max_new_tokens)


def make_pivots(run: OpenRun, traces: Sequence[Sequence[Trace]], files: StageFiles | None = None) -> list[Pivot]:
    """The pivots of the problems whose ``traces`` have both verdicts; ``files`` are by default the run's own."""
    files, config = files or run.files("pivots"), run.config
    if not files.done:
        run_pivots(
            files, pair_traces(run.task.train, traces), run.grader, run.engine, config.pivots, config.traces.chunk,
            run.max_new_tokens, config.seed,
        )  # fmt: skip
    files.check()
    files.remove(PIVOTS_LOG)
    return load_pivots(files / PIVOTS)


def make_circuit(
    run: OpenRun, pivots: Sequence[Pivot], files: StageFiles | None = None, settings: CircuitConfig | None = None
) -> Circuit:
    """The circuit on the pivots; ``files`` and ``settings`` are by default the run's own."""
    files, config = files or run.files("circuit"), run.config
    if not files.done:
        run_circuit(
            files, run.model, run.anatomy, pivots, settings or run.circuit_settings,
            texts=run.retention_texts, rows=config.amplify.rows, seed=config.seed,
        )  # fmt: skip
    files.check()
    files.remove(MASK)
    return load_circuit(files / CIRCUIT)


def make_training(run: OpenRun, files: StageFiles, pivots: Sequence[Pivot], budget: BudgetConfig) -> Training:
    """Trains circuits within a budget. Make it while the model is untouched."""
    validator = Validator(run.model, run.answering, run.task, budget, run.max_new_tokens, run.note)
    return Training(
        files, run.model, run.anatomy, pivots, run.config.amplify, validator, run.retention_texts, run.config.seed
    )


def make_patch(run: OpenRun, pivots: Sequence[Pivot], circuit: Circuit) -> Patch:
    """The patch of the best validated step on the circuit's rows."""
    files, config = run.files("amplify"), run.config
    if not files.done:
        revision = model_commit(run.model, config.model) or config.revision
        with files.timed():
            training = make_training(run, files, pivots, config.amplify.budget)
            run_amplify(training, circuit, (config.model, revision), {"config": without_out(config)})
    files.check()
    files.remove(STEPS)
    return load_patch(files / PATCH)


def make_evaluation(run: OpenRun, pivots: Sequence[Pivot], circuit: Circuit, patch: Patch) -> Row:
    """Base, patch and controls on the test split, which no other stage reads; as report.json has it."""
    files, config = run.files("evaluate"), run.config
    if not files.done:
        training = make_training(run, files, pivots, NO_BUDGET)
        controls = config.evaluate.random_controls
        run_evaluate(training, patch, circuit, run.task, run.answering, run.max_new_tokens, controls)
    files.check()
    files.remove(CONTROL)
    measured = read_sealed(files / EVALUATION, EVALUATION_FORMAT, 1)
    tracked = ("base", "patched", "gain", "drift", "retention", "share")
    run.track({"test": {key: measured[key] for key in tracked}})
    return measured


def write_report(path: Path) -> Row | None:
    """Write report.json and report.html from the files of the stages; of a run under way the page alone.

    Loads no model and takes no lock. Returns report.json; None when it is not there yet.
    """
    folder = RunFolder(path)
    manifest, report = folder.manifest(), None
    if (folder / EVALUATION).exists():
        measured = read_sealed(folder / EVALUATION, EVALUATION_FORMAT, 1)
        amplified = read_sealed(folder / SUMMARY, AMPLIFY, 1)
        report = make_report(manifest, measured, amplified, read_costs(folder / COSTS))
        report |= {key: manifest[key] for key in ("notes", "forked_from") if key in manifest}
        write_json(folder / "report.json", report)
    write_text(folder / "report.html", render_page(path))
    return report
