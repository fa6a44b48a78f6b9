"""Output of commands: progress bars on a terminal, plain lines elsewhere, errors in one line."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from cca.engines.engine import Progress as Tell
from cca.errors import CcaError

console = Console()
errors = Console(stderr=True)
Force = Annotated[bool, typer.Option("--force", help="Replace the file at --out.")]


def check_new(out: Path, force: bool) -> None:
    """Raise CcaError where ``out`` is there already, unless it is a file and ``force`` says to replace it."""
    if out.is_dir() or (out.exists() and not force):
        raise CcaError(f"{out}: expected a new file, found one; name another, or replace a file with --force")


class ConsoleProgress:
    """Shows progress on the terminal; finished work leaves one line with its time."""

    def say(self, text: str) -> None:
        say(text)

    @contextmanager
    def work(self, what: str, total: int | None) -> Iterator[Tell]:
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


def say(text: str) -> None:
    """Print a line as it is."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def stoppable() -> Iterator[None]:
    """Report a command that was stopped and can be resumed; exit as a process does that a signal ended."""
    try:
        yield
    except KeyboardInterrupt as stop:
        if leads():
            fail("stopped; the same command goes on from the last whole chunk")
        raise typer.Exit(128 + getattr(stop, "signal", signal.SIGINT)) from stop


def fail(message: str) -> None:
    """Print one error line to standard error."""
    errors.print(f"[bold red]error:[/bold red] {escape(' '.join(message.split()))}", highlight=False, soft_wrap=True)


def join() -> None:
    """Meet the other processes. Raises CcaError when they cannot be met."""
    if _several():
        from cca import distributed

        distributed.initialise()


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
