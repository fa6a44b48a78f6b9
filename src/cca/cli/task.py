"""``cca task``: look at the problems of a task before a run is spent on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from cca.errors import CcaError
from cca.files import Row, write_text
from cca.problems.templates.check import Check, check_file, distinct_instances, remarks, template_generator
from cca.problems.templates.template import Template, read_template, template_files

app = typer.Typer(
    help="See which tasks there are and what a model sees of them; check and sample templates.",
    no_args_is_help=True,
)

Folder = Annotated[
    Path, typer.Argument(help="Folder of GSM-Symbolic templates (*.json, also in inner folders).")
]


@app.command(name="list")
def list_tasks() -> None:
    """Every task, prompt style and judge that run.yaml can name."""
    from cca.cli.task_preview import listed

    for line in listed():
        typer.echo(line)


@app.command()
def preview(
    what: Annotated[
        str, typer.Argument(help="A run.yaml, a task's name, a problem file or a template folder.")
    ],
    model: Annotated[
        str | None, typer.Option(help="Model whose tokenizer to use; by default run.yaml's.")
    ] = None,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "train",
    count: Annotated[int, typer.Option(min=1, help="Problems to show.")] = 1,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of samples and splits.")] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override a key: --set task.prompt=chat", metavar="KEY=VALUE"),
    ] = None,
) -> None:
    """Problems exactly as the model sees them: the whole prompt, special tokens and token ids included."""
    from cca.cli.task_preview import preview as lines

    for line in lines(what, overrides or [], model, split, count, seed):
        typer.echo(line)


@app.command()
def check(
    folder: Folder,
    instances: Annotated[int, typer.Option(min=1, help="Distinct instances a template must give.")] = 20,
    notes: Annotated[bool, typer.Option(help="Also name faults that show for some values only.")] = True,
) -> None:
    """Say of each template whether it parses, can be satisfied and gives sound instances; exit code 1 if not."""
    faulty = 0
    for name, path in template_files(folder):
        found = check_file(name, path, instances)
        faulty += not found.sound
        for line in _lines(found, notes):
            typer.echo(line)
    total = len(template_files(folder))
    typer.echo(f"{total - faulty} of {total} templates are sound" + (f", {faulty} faulty" if faulty else ""))
    if faulty:
        raise typer.Exit(1)


@app.command()
def sample(
    folder: Folder,
    out: Annotated[Path, typer.Option(help="JSONL file to write: id, template, question, solution, answer.")],
    instances: Annotated[
        int, typer.Option(min=1, help="Instances of each template, with different questions.")
    ] = 50,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same instances.")] = 0,
) -> None:
    """Write instances of every template. Faulty templates are named and left out."""
    rows: list[Row] = []
    warnings: list[str] = []
    files = template_files(folder)
    for name, path in files:
        try:
            template = read_template(name, path)
            made = _instances(template, instances, seed)
        except CcaError as error:
            warnings.append(f"{error}")
            continue
        rows += made
        warnings += [f"template {name}: {remark}" for remark in remarks(template)]
        if len(made) < instances:
            warnings.append(
                f"template {name}: only {len(made)} distinct instances found, {instances} asked for"
            )
    for line in warnings:
        typer.echo(f"warning: {line}", err=True)
    if not rows:
        raise CcaError(
            f"{folder}: none of {len(files)} templates gives an instance; run cca task check {folder}"
        )
    write_text(out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    used = len({row["template"] for row in rows})
    typer.echo(f"wrote {len(rows)} instances of {used} of {len(files)} templates to {out}")


def _instances(template: Template, count: int, seed: int) -> list[Row]:
    found = zip(range(count), distinct_instances(template, template_generator(template, seed)), strict=False)
    return [
        {
            "id": f"{template.name}-{index:04d}",
            "template": template.name,
            "question": instance.question,
            "solution": instance.solution,
            "answer": instance.answer,
        }
        for index, instance in found
    ]


def _lines(found: Check, notes: bool) -> list[str]:
    verdict = f"sound, {found.distinct} distinct instances" if found.sound else f"FAULTY: {found.fault}"
    return [f"{found.name}: {verdict}", *(f"    note: {note}" for note in found.notes if notes)]
