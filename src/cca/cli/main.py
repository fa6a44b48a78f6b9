"""`cca`: the commands that run the method. Torch is imported when a command needs a model, not before."""

from __future__ import annotations

import errno
import io
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cca.cli.console import (
    ConsoleProgress,
    Force,
    RunYaml,
    Set,
    console,
    fail,
    join,
    listed,
    say,
    show_report,
    speaks,
    stoppable,
)
from cca.errors import CcaError

if TYPE_CHECKING:
    from cca.runs.config import Config

app = typer.Typer(
    name="cca",
    help="Raise one skill of an open-weight language model by editing few of its weights.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

Where = Annotated[Path, typer.Argument(help="A run folder, or the run.yaml of a new one.")]


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/demo"), overrides: Set = None
) -> None:
    """Run the whole pipeline on the bundled model; takes minutes on a laptop CPU."""
    from cca.runs.config import config_of

    given = {"model": "tinymath", "task": "tinymath", "out": str(out)}
    _run(config_of(given, overrides or []))


@app.command()
def run(
    config: RunYaml,
    overrides: Set = None,
    fork: Annotated[Path | None, typer.Option(help="New folder; it reuses every valid stage of 'out'.")] = None,
) -> None:
    """Run everything, from traces to the report. The same command resumes a stopped run."""
    from cca.runs.config import load_config

    wanted = load_config(config, overrides or [])
    if fork is None:
        _run(wanted)
    else:
        _run(wanted.model_copy(update={"out": fork}), fork_of=wanted.out)


def _add_stage(stage: str, text: str) -> None:
    @app.command(stage, help=text)
    def command(where: Where, overrides: Set = None) -> None:
        _stage(where, overrides, stage)


for _name, _text in {
    "traces": "Stage 1: greedy and sampled traces of the training problems.",
    "pivots": "Stage 2: the tokens at which right and wrong traces part.",
    "circuit": "Stage 3: the components that decide between these tokens.",
    "amplify": "Stage 4: gradient steps on the circuit's weights, and the patch of the best one.",
}.items():
    _add_stage(_name, _text)


@app.command()
def evaluate(
    where: Annotated[
        Path | None, typer.Argument(help="A run folder or run.yaml, for stage 5 of a run. Leave out with --model.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Any model: a folder, a hub id, or 'tinymath'.")] = None,
    task: Annotated[
        str | None,
        typer.Option(help="Problem file, task name, template folder, or YAML with a task. See cca task list."),
    ] = None,
    patch: Annotated[Path | None, typer.Option(help="Patch file: the model is measured with it, too.")] = None,
    against: Annotated[str | None, typer.Option(help="Another model to hold against --model.")] = None,
    split: Annotated[str | None, typer.Option(help="train, validation or test (default).")] = None,
    seeds: Annotated[str | None, typer.Option(help="Seeds of the task's problems, with commas; default: 0.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Longest completion.")] = None,
    lm_eval: Annotated[str | None, typer.Option(help="Tasks of lm-evaluation-harness, separated by commas.")] = None,
    include_path: Annotated[Path | None, typer.Option(help="Folder of lm-eval task files of your own.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Documents of each lm-eval task; default: all.")] = None,
    out: Annotated[Path, typer.Option(help="Results of models measured without a run.")] = Path("results.json"),
    force: Force = False,
    device: Annotated[str | None, typer.Option(help="cuda, cuda:1, mps or cpu; by default the first there is.")] = None,
    overrides: Set = None,
) -> None:
    """Stage 5 of a run; or with --model any model, patch or pair of models, without a run folder."""
    if where is not None:
        if any((model, task, patch, against, split, seeds, max_new_tokens, lm_eval, include_path, limit)):
            raise CcaError("evaluate: a run has its own model and task; leave the run folder or the options out")
        _stage(where, [*(overrides or ()), *([f"device={device}"] if device else ())], "evaluate")
        return
    from cca.cli.evaluate import Asked, numbers, remarks
    from cca.cli.evaluate import evaluate as measure
    from cca.models.memory import keep_freed_memory
    from cca.reports.report import Report
    from cca.reports.results import summary_table

    wanted = Asked(
        task, model, patch, against, split, numbers("--seeds", seeds), max_new_tokens, listed(lm_eval), include_path,
        limit, device, tuple(overrides or ()), out, force,
    )  # fmt: skip
    keep_freed_memory()
    row = measure(wanted, ConsoleProgress())
    console.print(summary_table(Report.from_json(row)))
    for line in remarks(row):
        say(line)
    say(f"{out} is written")


def _run(config: Config, fork_of: Path | None = None) -> None:
    from cca.runs.pipeline import run as run_everything

    with stoppable():
        report = run_everything(config, ConsoleProgress(), fork_of)
    show_report(report, config.out)


def _stage(where: Path, overrides: list[str] | None, stage: str) -> None:
    from cca.runs.folder.run_folder import config_at
    from cca.runs.pipeline import run_stage

    with stoppable():
        run_stage(config_at(where, overrides or []), stage, ConsoleProgress())


def main() -> None:
    """Run the command line; bad input ends with one line on standard error and exit code 2.

    Of several processes (`cca.distributed`) the first shows progress, and the first that fails shows its error.
    """
    from cca.cli import patch, runs, task

    _quiet()
    for stream in (sys.stdout, sys.stderr):  # names outside the terminal's encoding are shown as escapes
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    app.add_typer(runs.app)
    app.add_typer(patch.app, name="patch")
    app.add_typer(task.app, name="task")
    try:
        join()
        app()
    except (CcaError, OSError) as error:
        if speaks():
            fail(_message(error))
        sys.exit(2)


def _message(error: CcaError | OSError) -> str:
    if isinstance(error, CcaError):
        return str(error)
    advice = "; make room, and the same command goes on" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
    return f"{error.filename or 'input or output'}: {error.strerror or error}{advice}"


def _quiet() -> None:
    """Hide libraries' messages and progress bars; their errors come through as ours. Loads none of them."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if (transformers := sys.modules.get("transformers")) is not None:  # imported before: it does not look again
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.getLogger("filelock").setLevel(logging.WARNING)
