"""`cca report`, `status`, `plan`, `config`, `init` and `compare`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from cca.cli.console import ConsoleProgress, RunYaml, Set, console, say, show_report, stoppable
from cca.errors import CcaError
from cca.files import Row, write_text
from cca.reports.formats import duration

app = typer.Typer()

Where = Annotated[Path, typer.Argument(help="A run folder, or the run.yaml that names one.")]
MEMORY = {"peak_cpu_bytes": "memory", "peak_gpu_bytes": "GPU memory"}


@app.command()
def report(where: Where) -> None:
    """Write report.json and report.html from the files of a run; the page alone while the run is under way."""
    from cca.runs.folder.run_folder import folder_of
    from cca.runs.pipeline import write_report

    folder = folder_of(where)
    found = write_report(folder)
    if found is None:
        say(f"{folder / 'report.html'} is written with the stages done so far; report.json comes with the last")
    else:
        show_report(found, folder)


@app.command()
def status(
    where: Where, as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False
) -> None:
    """Show the stage of a run, its findings, costs and the time left. The run may be under way."""
    from cca.runs.folder.run_folder import folder_of
    from cca.runs.status import status as status_of

    found = status_of(folder_of(where))
    if as_json:
        say(json.dumps(found, indent=2))
        return
    say(f"{found['run']}: {found['state']}")
    for name, stage in found["stages"].items():
        facts = ", ".join(_fact(key, value) for key, value in stage.items() if key not in ("state", "seconds"))
        say(f"  {name:<9} {stage['state']:<10} {duration(stage['seconds']):>8}  {facts}")
    if now := found["now"]:
        done = "" if now.get("total") is None else f", {now.get('done')} of {now['total']}"
        left = "" if now.get("seconds_left") is None else f", about {duration(now['seconds_left'])} left"
        each = "" if now.get("seconds_each") is None else f", {now['seconds_each']:.3g} s each"
        rate = "" if now.get("tokens_per_second") is None else f", {now['tokens_per_second']:g} tokens a second"
        say(f"now: {now.get('what')}{done}{each}{rate}{left}")
    say(f"time so far: {duration(found['seconds'])}")
    for line in (*found["notes"], *found["log"]):
        say(f"  {line}")


def _fact(key: str, value: object) -> str:
    if key in MEMORY:
        return f"{float(str(value)) / 1e9:.2f} GB of {MEMORY[key]}"
    name = key.replace("_", " ")
    if not isinstance(value, float):
        return f"{name} {value}"
    return f"{name} {value:.3g}" if key in ("drift", "gain_points") else f"{name} {value:.1%}"


@app.command()
def plan(config: RunYaml, overrides: Set = None) -> None:
    """Cost of a run in time, tokens and memory, from its first chunk of work, which the run then resumes from."""
    from cca.models.memory import keep_freed_memory
    from cca.runs.config import load_config
    from cca.runs.plan import make_plan

    keep_freed_memory()
    wanted = load_config(config, overrides or [])
    stages = make_plan(wanted, ConsoleProgress())
    for name, row in stages.items():
        say(f"{name:<9} {_cost(row)}")
    say("The number of steps is not known beforehand; each random control takes steps of the same cost.")
    if "amplify" not in stages:
        say("warning: no problem so far has traces of both verdicts; there may be nothing to pair")
    say(f"The first chunk is kept in {wanted.out}; `cca run {config}` resumes from it.")


def _cost(row: Row) -> str:
    """ "0.02 s and 120 tokens per problem, 400 left: about 8 s; 0.61 GB of memory"."""
    parts = []
    if "seconds_each" in row:
        each = f"{row['seconds_each']:.3g} s and {row['tokens_each']:,.0f} tokens per {row['unit']}"
        if row.get("pivots") != row.get("pivots_in_all"):
            each += f" over {row['pivots']:,} pivots (the run has about {row['pivots_in_all']:,})"
        parts.append(each)
    if row["left"] is not None:
        parts.append(f"{row['left']:,} left: about {duration(row['seconds_left'])}")
    else:
        parts.append(f"at most {row['at_most']} steps")
    memory = [f"{row[key] / 1e9:.2f} GB of {name}" for key, name in MEMORY.items() if key in row]
    return ", ".join(parts) + "".join(f"; {each}" for each in memory)


@app.command()
def config(
    key: Annotated[str | None, typer.Argument(help="Only this key or section, as traces.samples.")] = None,
    schema: Annotated[bool, typer.Option("--schema", help="A JSON schema instead, for editors.")] = False,
) -> None:
    """Every key of run.yaml, what it means and its default."""
    from cca.runs import help_text as config_text

    say(json.dumps(config_text.schema(), indent=2) if schema else config_text.describe(key))


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="The file to write.")] = Path("run.yaml"),
    model: Annotated[str, typer.Option(help="Hub id or local folder; 'tinymath' is the bundled one.")] = "tinymath",
    task: Annotated[str, typer.Option(help="A name of `cca task list`, or TRAIN,VALIDATION,TEST files.")] = "tinymath",
    retention: Annotated[
        list[str] | None, typer.Option(help="Problem file of another skill, or lm_eval:TASK; may be repeated.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; default: runs/MODEL-TASK.")] = None,
    preset: Annotated[str | None, typer.Option(help="default or paper.")] = None,
) -> None:
    """Write a run.yaml with every key: yours set, the others commented out at their defaults."""
    from cca.runs.help_text import starter

    files = task.split(",")
    if len(files) not in (1, 3):
        raise CcaError(f"--task: expected a name or TRAIN,VALIDATION,TEST, got {len(files)} parts in {task!r}")
    name = "-".join((Path(model).name, Path(files[0]).stem)) if model != task else model
    given = {
        "model": model,
        "task": task if len(files) == 1 else dict(zip(("train", "validation", "test"), files, strict=True)),
        "out": str(out or Path("runs") / name),
        **({"retention": retention} if retention else {}),
        **({"preset": preset} if preset else {}),
    }
    if path.exists():
        raise CcaError(f"{path}: is there already; name another file or remove it")
    write_text(path, starter(given))
    say(f"{path} is written; next: cca run {path}, or cca plan {path} to see what it will cost")


@app.command()
def compare(config: Annotated[Path, typer.Argument(help="The compare.yaml.")]) -> None:
    """Compare localisers, objectives and baselines on the same traces. The same command resumes."""
    from cca.compare.config import load_compare
    from cca.compare.page import terminal_table
    from cca.compare.pipeline import compare as compare_arms

    wanted = load_compare(config)
    with stoppable():
        result = compare_arms(wanted, ConsoleProgress())
    console.print(terminal_table(result))
    console.print(result.scope, highlight=False)
    console.print(f"{wanted.out / 'compare.json'} and {wanted.out / 'compare.html'} are written", highlight=False)
