"""`cca tinymath`: make the bundled model again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cca.cli.console import ConsoleProgress, console

app = typer.Typer(help="The bundled model: train it from scratch, write its problems.", no_args_is_help=True)


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="Folder for the model and its tokenizer.")],
    seed: Annotated[int, typer.Option(help="Seed of weights and data.")] = 0,
) -> None:
    """Train tinymath from scratch (about 40 minutes on one CPU core)."""
    from cca.tinymath.recipe import Recipe
    from cca.tinymath.recipe import train as train_model

    recipe = Recipe(seed=seed)
    with ConsoleProgress().work("training tinymath", recipe.steps + recipe.planted_steps) as progress:
        train_model(out, recipe, lambda *_: progress(1))
    console.print(f"{out} is written", highlight=False)


@app.command()
def problems(
    out: Annotated[Path, typer.Option(help="Folder for train, validation, test and the other skills.")],
    seed: Annotated[int, typer.Option(help="Seed of the splits.")] = 0,
) -> None:
    """Write the problems of the tinymath task as files."""
    from cca.problems.problem import write_problems
    from cca.tinymath.task import load

    task = load(seed)
    splits = {"train": task.train, "validation": task.validation, "test": task.test, **task.retention}
    for name, problems in splits.items():
        write_problems(out / f"{name}.jsonl", problems)
    console.print(
        f"{out}: {', '.join(f'{name} {len(problems)}' for name, problems in splits.items())}", highlight=False
    )
