"""``cca compare``: arms on the same traces and pivots, held against each other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cca.cli.console import ConsoleProgress, console, stoppable

Config = Annotated[Path, typer.Argument(help="The compare.yaml.")]


def compare(config: Config) -> None:
    """Compare localisers, objectives and baselines on the same traces. The same command resumes."""
    from cca.compare.config import load_compare
    from cca.compare.page import terminal_table
    from cca.compare.pipeline import compare as compare_arms
    from cca.models.memory import keep_freed_memory

    keep_freed_memory()
    wanted = load_compare(config)
    with stoppable():
        result = compare_arms(wanted, ConsoleProgress())
    console.print(terminal_table(result))
    console.print(result.scope, highlight=False)
    console.print(f"{wanted.out / 'compare.json'} and {wanted.out / 'compare.html'} are written", highlight=False)
