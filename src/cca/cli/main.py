"""`cca`: the commands that run the method. Torch is imported when a command needs a model, not before."""

from __future__ import annotations

import errno
import io
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from cca.cli.console import ConsoleProgress, console, fail, join, leads, say, speaks, stoppable
from cca.errors import CcaError

app = typer.Typer(
    name="cca",
    help="Raise one skill of an open-weight language model by editing few of its weights.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

Set = Annotated[
    list[str] | None, typer.Option("--set", help="Override a config key: --set traces.samples=5", metavar="KEY=VALUE")
]
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
    config: Annotated[Path, typer.Argument(help="The run.yaml.")],
    overrides: Set = None,
    fork: Annotated[
        Path | None, typer.Option(help="New folder to continue in; it reuses every stage of 'out' that is still valid.")
    ] = None,
) -> None:
    """Run everything, from traces to the report. The same command resumes a stopped run."""
    from cca.runs.config import load_config

    wanted = load_config(config, overrides or [])
    if fork is None:
        _run(wanted)
    else:
        _run(wanted.model_copy(update={"out": fork}), fork_of=wanted.out)


@app.command()
def traces(where: Where, overrides: Set = None) -> None:
    """Stage 1: greedy and sampled traces of the training problems."""
    _stage(where, overrides, "traces")


@app.command()
def pivots(where: Where, overrides: Set = None) -> None:
    """Stage 2: the tokens at which right and wrong traces part."""
    _stage(where, overrides, "pivots")


@app.command()
def circuit(where: Where, overrides: Set = None) -> None:
    """Stage 3: the components that decide between these tokens."""
    _stage(where, overrides, "circuit")


@app.command()
def amplify(where: Where, overrides: Set = None) -> None:
    """Stage 4: gradient steps on the circuit's weights, and the patch of the best one."""
    _stage(where, overrides, "amplify")


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
    seeds: Annotated[
        str | None, typer.Option(help="Seeds of the task's problems, separated by commas; by default 0.")
    ] = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Longest completion.")] = None,
    lm_eval: Annotated[str | None, typer.Option(help="Tasks of lm-evaluation-harness, separated by commas.")] = None,
    include_path: Annotated[Path | None, typer.Option(help="Folder of lm-eval task files of your own.")] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first so many documents of each lm-eval task.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Results of models measured without a run.")] = Path("results.json"),
    device: Annotated[str | None, typer.Option(help="cuda, cuda:1, mps or cpu; by default the first there is.")] = None,
    overrides: Set = None,
) -> None:
    """Stage 5 of a run; or with --model any model, patch or pair of models, without a run folder."""
    if where is not None:
        if any((model, task, patch, against, split, seeds, max_new_tokens, lm_eval, include_path, limit)):
            raise CcaError("evaluate: a run has its own model and task; leave the run folder or the options out")
        _stage(where, [*(overrides or ()), *([f"device={device}"] if device else ())], "evaluate")
        return
    from cca.cli.evaluate import Asked, listed, numbers, told
    from cca.cli.evaluate import evaluate as measure
    from cca.models.memory import keep_freed_memory
    from cca.reports.results import summary_table

    wanted = Asked(
        task, model, patch, against, split, numbers("--seeds", seeds), max_new_tokens, listed(lm_eval), include_path,
        limit, device, tuple(overrides or ()), out,
    )  # fmt: skip
    keep_freed_memory()
    row = measure(wanted, ConsoleProgress())
    console.print(summary_table(row))
    for line in told(row):
        say(line)
    say(f"{out} is written")


def _run(config: Any, fork_of: Path | None = None) -> None:
    from cca.models.memory import keep_freed_memory
    from cca.reports.results import summary_table
    from cca.runs.pipeline import run as run_everything

    keep_freed_memory()
    with stoppable():
        report = run_everything(config, ConsoleProgress(), fork_of)
    console.print(summary_table(report))
    say(f"{config.out / 'report.json'} and {config.out / 'report.html'} are written")


def _stage(where: Path, overrides: list[str] | None, stage: str) -> None:
    from cca.models.memory import keep_freed_memory
    from cca.runs.folder.run_folder import config_at
    from cca.runs.pipeline import run_stage

    keep_freed_memory()
    with stoppable():
        run_stage(config_at(where, overrides or []), stage, ConsoleProgress())


def _add_groups() -> None:
    from cca.cli.compare import compare
    from cca.cli.patch import app as patch
    from cca.cli.runs import app as runs
    from cca.cli.task import app as task

    app.add_typer(runs)
    app.command()(compare)
    app.add_typer(patch, name="patch")
    app.add_typer(task, name="task")


def main() -> None:
    """Run the command line; bad input ends with one line on standard error and exit code 2.

    Of several processes (`cca.distributed`) the first shows progress, and the first that fails shows its error.
    """
    _quiet()
    for stream in (sys.stdout, sys.stderr):  # names outside the terminal's encoding are shown as escapes
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    _add_groups()
    try:
        join()
        console.quiet = not leads()
        app()
    except CcaError as error:
        if speaks():
            fail(str(error))
        sys.exit(2)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = "; make room, and the same command goes on" if full else ""
        if speaks():
            fail(f"{error.filename or 'input or output'}: {error.strerror or error}{advice}")
        sys.exit(2)


def _quiet() -> None:
    """Hide libraries' messages and progress bars; their errors come through as ours. Loads none of them."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if (transformers := sys.modules.get("transformers")) is not None:  # imported before: it does not look again
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.getLogger("filelock").setLevel(logging.WARNING)
