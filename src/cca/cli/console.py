"""What commands share: arguments, progress bars on a terminal (plain lines elsewhere), errors in one line.

TARGET is a run.yaml, a YAML file with a task, or a task's name or file.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from cca.engines.engine import Progress as Advance
from cca.errors import CcaError
from cca.files import Row, read_yaml
from cca.tinymath import BUNDLED_MODEL

if TYPE_CHECKING:
    from cca.runs.config import Config

RunYaml = Annotated[Path, typer.Argument(help="The run.yaml.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="Override a config key: --set traces.samples=5", metavar="KEY=VALUE")
]
NO_MODEL = "(none)"
console = Console()
errors = Console(stderr=True)
Force = Annotated[bool, typer.Option("--force", help="Replace the file at --out.")]


def check_new(out: Path, force: bool) -> None:
    """Raise CcaError where ``out`` is there already, unless it is a file and ``force`` says to replace it."""
    if out.is_dir() or (out.exists() and not force):
        raise CcaError(f"{out}: expected a new file, found one; name another, or replace a file with --force")


def say(text: str) -> None:
    """Print a line as it is."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def fail(message: str) -> None:
    """Print one error line to standard error."""
    errors.print(f"[bold red]error:[/bold red] {escape(' '.join(message.split()))}", highlight=False, soft_wrap=True)


class ConsoleProgress:
    """Shows progress on the terminal; finished work leaves one line with its time."""

    say = staticmethod(say)

    def alive(self, text: str) -> None:
        if not console.is_terminal:  # a terminal has a bar
            say(text)

    @contextmanager
    def work(self, what: str, total: int | None) -> Iterator[Advance]:
        began = time.perf_counter()
        columns = [SpinnerColumn(), TextColumn("{task.description}", markup=False)]
        if total is not None:
            columns += [BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
            task = progress.add_task(what, total=total)
            yield lambda done: progress.update(task, advance=done)
        seconds = time.perf_counter() - began
        if seconds >= 0.5:
            console.print(f"  {escape(what)} [dim]{seconds:.1f} s[/dim]", highlight=False)


@contextmanager
def stoppable() -> Iterator[None]:
    """Report a command that was stopped and can be resumed; exit as a process does that a signal ended."""
    from cca.models.memory import keep_freed_memory

    keep_freed_memory()
    try:
        yield
    except KeyboardInterrupt as stop:
        if leads():
            fail("stopped; the same command goes on from the last whole chunk")
        raise typer.Exit(128 + getattr(stop, "signal", signal.SIGINT)) from stop


def show_report(report: Row, folder: Path) -> None:
    """Print the table of a run's report.json, and where it is."""
    from cca.reports.report import Report
    from cca.reports.results import summary_table

    console.print(summary_table(Report.from_json(report)))
    say(f"{folder / 'report.json'} and {folder / 'report.html'} are written")


def join() -> None:
    """Meet the other processes; the first shows progress. Raises CcaError when they cannot be met."""
    if _several():
        from cca import distributed

        distributed.initialise()
    console.quiet = not leads()


def leads() -> bool:
    """True when this process shows progress."""
    return not _several() or os.environ.get("RANK") == "0"


def speaks() -> bool:
    """True when this failed process is the one that reports the error."""
    if not _several():
        return True
    from cca import distributed

    return distributed.speaks_for_failure()


def _several() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def listed(text: str | None) -> tuple[str, ...]:
    """The words of "a, b"."""
    return tuple(word for word in (part.strip() for part in (text or "").split(",")) if word)


def parse_target(target: str, overrides: Sequence[str] = (), **given: Any) -> Config:
    """The configuration of ``target``. Keys of ``given`` that are not None override what a YAML file says.

    Where nothing names a model, `Config.model` is `NO_MODEL`; there is no run folder.
    """
    from cca.runs.config import config_of

    content: Any = read_yaml(Path(target)) if Path(target).suffix in (".yaml", ".yml") else {"task": target}
    if not isinstance(content, dict):
        raise CcaError(f"{target}: expected a run.yaml, or a mapping with 'source', got {type(content).__name__}")
    content = content if "task" in content else {"task": content}
    if isinstance(content["task"], str):
        content["task"] = {"source": content["task"]}
    content = {"model": NO_MODEL, "out": ".", **content, **{k: v for k, v in given.items() if v is not None}}
    return config_of(content, overrides)


def model_path(model: str) -> str:
    """The folder of the bundled model; any other name unchanged."""
    return str(BUNDLED_MODEL) if model == "tinymath" else model
