"""`cca status`, `report`, `plan`, `init`, `config`: about runs, without running one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cca.cli.console import console, say

app = typer.Typer()

Where = Annotated[Path, typer.Argument(help="A run folder, or the run.yaml that names one.")]


@app.command()
def report(where: Where) -> None:
    """report.json and report.html from the files of a run; of one under way, a page with what there is."""
    from cca.reports.table import summary_table
    from cca.runs.pipeline import write_report
    from cca.runs.reopen import folder_of

    folder = folder_of(where)
    found = write_report(folder)
    if found is None:
        say(
            f"{folder / 'report.html'} is written with the stages done so far; report.json comes with the last"
        )
        return
    console.print(summary_table(found))
    say(f"{folder / 'report.json'} and {folder / 'report.html'} are written")


@app.command()
def config() -> None:
    """Every key of run.yaml, what it means and its default."""
    from cca.runs.config import Config, describe

    say(describe(Config))
