"""``cca task``: look at the problems of a task before a run is spent on them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cca.errors import CcaError
from cca.files import Row, write_text

if TYPE_CHECKING:
    from cca.models.loading import Codec
    from cca.problems.judges.judge import Judge
    from cca.problems.problem import Problem
    from cca.problems.task import Task
    from cca.runs.config import Config

app = typer.Typer(
    help="See which tasks there are and what a model sees of them; check and sample templates.", no_args_is_help=True
)

Folder = Annotated[Path, typer.Argument(help="Folder of GSM-Symbolic templates (*.json, also in inner folders).")]


@app.command(name="list")
def list_tasks() -> None:
    """List every task, prompt style and judge that run.yaml can name."""
    for line in _task_lines():
        typer.echo(line)


@app.command()
def preview(
    target: Annotated[str, typer.Argument(help="A run.yaml, a task's name, a problem file or a template folder.")],
    model: Annotated[str | None, typer.Option(help="Model whose tokenizer to use; by default run.yaml's.")] = None,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "train",
    count: Annotated[int, typer.Option(min=1, help="Problems to show.")] = 1,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of samples and splits.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Override a key: --set task.prompt=chat", metavar="KEY=VALUE")
    ] = None,
) -> None:
    """Show problems exactly as the model sees them: the whole prompt, special tokens and token ids included."""
    for line in _preview_lines(target, overrides or [], model, split, count, seed):
        typer.echo(line)


@app.command()
def check(
    folder: Folder,
    instances: Annotated[int, typer.Option(min=1, help="Distinct instances a template must give.")] = 20,
    notes: Annotated[bool, typer.Option(help="Also name faults that show for some values only.")] = True,
) -> None:
    """Check that each template parses, can be satisfied and gives sound instances; exit code 1 if one does not."""
    from cca.problems.templates import check_file
    from cca.problems.templates.template import template_files

    faulty, files = 0, template_files(folder)
    for name, path in files:
        found = check_file(name, path, instances)
        faulty += not found.sound
        verdict = f"sound, {found.distinct} distinct instances" if found.sound else f"FAULTY: {found.fault}"
        typer.echo("\n".join([f"{name}: {verdict}", *(f"    note: {note}" for note in found.notes if notes)]))
    total = len(files)
    typer.echo(f"{total - faulty} of {total} templates are sound" + (f", {faulty} faulty" if faulty else ""))
    if faulty:
        raise typer.Exit(1)


@app.command()
def sample(
    folder: Folder,
    out: Annotated[Path, typer.Option(help="JSONL file to write: id, template, question, solution, answer.")],
    instances: Annotated[int, typer.Option(min=1, help="Instances of each template, with different questions.")] = 50,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same instances.")] = 0,
    force: Annotated[bool, typer.Option(help="Replace the file if it exists.")] = False,
) -> None:
    """Write instances of every template. Faulty templates are named and left out."""
    from cca.problems.templates import instance_rows, remarks
    from cca.problems.templates.template import read_template, template_files

    if out.exists() and not force:
        raise CcaError(f"--out: {out} exists already; name another file, or add --force to replace it")
    rows: list[Row] = []
    warnings: list[str] = []
    files = template_files(folder)
    for name, path in files:
        try:
            template = read_template(name, path)
            made = instance_rows(template, instances, seed)
        except CcaError as error:
            warnings.append(f"{error}")
            continue
        rows += made
        warnings += [f"template {name}: {remark}" for remark in remarks(template)]
        if len(made) < instances:
            warnings.append(f"template {name}: only {len(made)} distinct instances found, {instances} asked for")
    for line in warnings:
        typer.echo(f"warning: {line}", err=True)
    if not rows:
        raise CcaError(f"{folder}: none of {len(files)} templates gives an instance; run cca task check {folder}")
    write_text(out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    used = len({row["template"] for row in rows})
    typer.echo(f"wrote {len(rows)} instances of {used} of {len(files)} templates to {out}")


def _task_lines() -> Iterator[str]:
    """Lines that name every source, prompt style and judge."""
    from cca.problems.datasets import NAMED
    from cca.problems.judges import JUDGES
    from cca.problems.prompts import STYLES
    from cca.problems.sources import BUILT_IN

    yield "tasks:"
    for name in BUILT_IN:
        yield f"  {name}: built in, with its own model and retention sets; nothing is downloaded"
    for name, dataset in NAMED.items():
        hubs = ", ".join(dict.fromkeys(variant.hub for variant in dataset.variants.values()))
        yield f"  {name}: {dataset.about}"
        yield f"      variants {', '.join(dataset.variants)}; from {hubs}, or a local copy of its files (path)"
    yield "  hf:OWNER/DATASET: any dataset of the hub, with a field mapping (fields)"
    yield "  FILE.jsonl: a problem file"
    yield "  FOLDER: templates in the language of GSM-Symbolic"
    yield "  package.module:function: your own problems and judge (allow_code)"
    yield f"prompts: {', '.join(STYLES)}, or a text with {{question}} in it"
    yield f"judges: {', '.join(JUDGES)}, or package.module:function"
    yield "retention: problem files, or lm_eval:TASK for any task of lm-evaluation-harness"


def _preview_lines(
    target: str, overrides: list[str], model: str | None, split: str, count: int, seed: int | None
) -> Iterator[str]:
    """Lines that show ``count`` problems of a split as the model sees them."""
    from cca.cli.arguments import load_target_codec, parse_target
    from cca.problems.task import task_judge
    from cca.problems.task_config import SPLITS

    if split not in SPLITS:
        raise CcaError(f"--split: expected {', '.join(SPLITS)}, got {split!r}")
    config = parse_target(target, overrides, model=model, seed=seed)
    codec = load_target_codec(config)
    tokenizer = codec.tokenizer if codec else None
    task = _open(config, tokenizer)
    judge = task_judge(task, config.judge, allow_code=config.allow_code)
    yield from _summary(task, judge)
    problems: tuple[Problem, ...] = getattr(task, split) or task.test
    for problem in problems[:count]:
        yield from _shown(problem, split, judge, codec, config)


def _open(config: Config, tokenizer: Any) -> Task:
    """The task; of a problem file that is too small to be divided, all problems."""
    from cca.problems.sources import open_task, whole_file
    from cca.problems.task import TooFewProblems
    from cca.problems.task_config import PromptSpec, TaskSource

    try:
        return open_task(config.task, config.seed, tokenizer=tokenizer, allow_code=config.allow_code)
    except TooFewProblems:
        spec = TaskSource(source=config.task) if isinstance(config.task, str) else config.task
        if not isinstance(spec, TaskSource) or not Path(spec.source).is_file():
            raise
        kept = {key: getattr(spec, key) for key in spec.model_fields_set & {"source", *PromptSpec.model_fields}}
        return whole_file(TaskSource(**kept), tokenizer)


def _summary(task: Task, judge: Judge) -> Iterator[str]:
    from cca.problems.task import overlaps
    from cca.problems.task_config import SPLITS

    sizes = ", ".join(f"{split} {len(getattr(task, split))}" for split in SPLITS)
    unseen = {problem.template for problem in task.test} - task.seen_templates
    yield f"task {task.name}: {sizes} problems"
    yield from (f"note: {note}" for note in overlaps(task))
    yield f"templates: {len(task.seen_templates)} in training, {len(unseen)} in test alone"
    stops = ", ".join(map(repr, task.prompts.stop)) or "none"
    thinking = ", inside a thought" if task.prompts.thinking else ""
    yield f"prompt: {task.prompts.style}{thinking}; stops: {stops}; judge: {judge.name}"


def _shown(problem: Problem, split: str, judge: Judge, codec: Codec | None, config: Config) -> Iterator[str]:
    yield f"--- {split}, problem {problem.id}, template {problem.template}, answer {problem.answer} ---"
    if codec is None:
        yield problem.prompt
        yield "--- its token ids: name a model (--model) ---"
        return
    from cca.pivots.traces import Grader

    token_ids = list(Grader(codec, judge).prompt_ids(problem))
    yield str(codec.tokenizer.decode(token_ids, skip_special_tokens=False))
    yield f"--- {len(token_ids)} tokens of {config.model} ---"
    yield " ".join(map(str, token_ids))
