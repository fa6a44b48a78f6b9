"""Sources of a task's problems: `open_task` takes what run.yaml says and gives the `Task`.

A source is a built-in task, a dataset known by name (`cca.problems.datasets`), any dataset of the hub with a
field mapping, a problem file, a folder of templates, or a function of the user's. Each kind is one function below and
one line in `_open_source`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import date
from functools import partial
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

from cca.errors import CcaError, suggestion
from cca.files import Row
from cca.problems.datasets import (
    NAMED,
    NamedDataset,
    Variant,
    hub_rows,
    hub_variant,
    local_rows,
    map_row,
    strip_calculator,
)  # fmt: skip
from cca.problems.judges import FunctionJudge, import_function
from cca.problems.judges.judge import Judge
from cca.problems.problem import Problem, Prompts, make_prompts, problems_of, read_problems
from cca.problems.task import Division, Task, divide, draw_some
from cca.problems.task_config import SPLITS, PromptSpec, TaskFiles, TaskSource

BUILT_IN = {"tinymath": "cca.tinymath.task"}
"""Task name -> module with ``load(seed) -> Task``."""
HUB = "hf:"
DIVIDING = frozenset({"split", "shares", "unseen", "limit"})
"""Keys of the sources that are divided into splits."""

USER_KEYS = ("problems", *SPLITS, "judge", "retention")

Ask = Callable[[str], Prompts]
"""The prompts that a task asks for, given the style that suits its source."""

_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def open_task(
    wanted: str | TaskFiles | TaskSource,
    seed: int = 0,
    *,
    tokenizer: Any = None,
    allow_code: bool = False,
    today: date | None = None,
) -> Task:
    """The task that a configuration names. The seed decides what is sampled and how it is divided.

    ``tokenizer`` is needed where prompts go through its chat template, ``today`` where that writes the day (a run that
    is resumed gives the day it began, ``origin["prompt"]["date"]``). Raises CcaError for anything unknown, missing or
    malformed, and for a user's function that was not allowed.
    """
    spec = TaskSource(source=wanted) if isinstance(wanted, str) else wanted
    ask = partial(_prompts, spec, tokenizer, today)
    task = _files(spec, ask) if isinstance(spec, TaskFiles) else _open_source(spec, seed, ask, allow_code)
    sizes = {split: len(getattr(task, split)) for split in SPLITS}
    given = spec.model_dump(mode="json", exclude_unset=True)
    return replace(task, origin={"task": given, **task.origin, "problems": sizes, "prompt": task.prompts.described()})


def whole_file(spec: TaskSource, tokenizer: Any = None) -> Task:
    """All problems of a problem file as a test split, for measuring only."""
    _check_keys(spec, frozenset())
    prompts = _prompts(spec, tokenizer, None, "zero-shot")
    problems = tuple(read_problems(Path(spec.source), prompts))
    origin = {"task": spec.model_dump(mode="json", exclude_unset=True), "prompt": prompts.described()}
    return Task(Path(spec.source).stem, (), (), problems, prompts=prompts, origin=origin)


def _open_source(spec: TaskSource, seed: int, ask: Ask, allow_code: bool) -> Task:
    source = spec.source
    if source in BUILT_IN:
        _check_keys(spec, frozenset(), prompts=False)
        load: Callable[[int], Task] = import_module(BUILT_IN[source]).load
        return load(seed)
    if source in NAMED or source.startswith(HUB):
        return _dataset(spec, seed, ask)
    if Path(source).is_dir():
        return _templates(spec, seed, ask("few-shot-8"))
    if Path(source).is_file():
        _check_keys(spec, DIVIDING)
        prompts = ask("zero-shot")
        return _divided(Path(source).stem, {"all": read_problems(Path(source), prompts)}, spec, seed, prompts)
    if _FUNCTION.fullmatch(source):
        return _function(spec, seed, ask("zero-shot"), allow_code)
    known = [*BUILT_IN, *NAMED]
    raise CcaError(
        f"task: expected {', '.join(known)}, hf:OWNER/DATASET, a problem file, a folder of templates or "
        f"package.module:function, got {source!r}{suggestion(source, known)}"
    )


def _files(spec: TaskFiles, ask: Ask) -> Task:
    prompts = ask("zero-shot")
    train, validation, test = (tuple(read_problems(path, prompts)) for path in (spec.train, spec.validation, spec.test))
    return Task("files", train, validation, test, prompts=prompts)


def _dataset(spec: TaskSource, seed: int, ask: Ask) -> Task:
    keys = DIVIDING | {"variant", "path", "revision"}
    dataset = NAMED.get(spec.source)
    if dataset is None:
        _check_keys(spec, keys | {"fields", "splits"})
        title = spec.source.removeprefix(HUB)
        variant, known, dataset = (
            hub_variant(title, spec.variant, spec.fields, spec.splits or {}),
            {},
            NamedDataset(""),
        )
        prompts = ask("zero-shot")
    else:
        _check_keys(spec, keys)
        name = spec.variant or next(iter(dataset.variants))
        if name not in dataset.variants:
            raise CcaError(f"task.variant: {spec.source} has {', '.join(dataset.variants)}, got {name!r}")
        title, variant, prompts = f"{spec.source} {name}", dataset.variants[name], ask(dataset.prompt)
        known = {"hub": variant.hub, "variant": name}
    # A local copy of one file is one split, divided between ours; read as several it would be in each.
    one_file = spec.path is not None and spec.path.expanduser().is_file()
    splits: Mapping[str, str] = dict.fromkeys(SPLITS, variant.splits["test"]) if one_file else variant.splits
    sets = {
        split: problems_of(_rows(spec, variant, split), f"{spec.path or variant.hub}, {split}", prompts)
        for split in dict.fromkeys(splits.values())
    }
    task = _divided(title, sets, spec, seed, prompts, splits)
    return replace(task, judge=dataset.judge, origin={**task.origin, **known})


def _rows(spec: TaskSource, variant: Variant, split: str) -> Iterator[tuple[str, Row]]:
    """(where it stands, problem row) of each row of one split of a dataset."""
    for config in variant.configs:
        found = (
            local_rows(spec.path, config, split) if spec.path else hub_rows(variant.hub, config, split, spec.revision)
        )
        prefix = f"{config}-" if len(variant.configs) > 1 else ""
        for number, row in enumerate(found):
            where = f"{spec.path or variant.hub}, {prefix}{split}, row {number}"
            yield where, {"id": f"{prefix}{split}-{number}", **map_row(row, variant.fields, where)}


def _templates(spec: TaskSource, seed: int, prompts: Prompts) -> Task:
    from cca.problems.templates import instance_rows
    from cca.problems.templates.template import load_templates

    _check_keys(spec, DIVIDING | {"instances"})
    folder = Path(spec.source)
    rows = [
        (f"{folder}, {row['id']}", {**row, "solution": strip_calculator(row["solution"])})
        for template in load_templates(folder)
        for row in instance_rows(template, spec.instances, seed)
    ]
    return _divided(folder.name, {"all": problems_of(rows, str(folder), prompts)}, spec, seed, prompts)


def _function(spec: TaskSource, seed: int, prompts: Prompts, allow_code: bool) -> Task:
    _check_keys(spec, DIVIDING)
    made = load_user_task(spec.source, allow_code, seed, prompts)
    if "problems" in made:
        task = _divided(spec.source, {"all": made["problems"]}, spec, seed, prompts)
    else:
        train, validation, test = (tuple(made[split]) for split in SPLITS)
        task = Task(spec.source, train, validation, test, prompts=prompts)
    return replace(task, judge=made["judge"], retention=made["retention"])


def _divided(
    name: str,
    sets: Mapping[str, list[Problem]],
    spec: TaskSource,
    seed: int,
    prompts: Prompts,
    splits: Mapping[str, str] = dict.fromkeys(SPLITS, "all"),
) -> Task:
    """``splits`` names the one of ``sets`` that a split is made of; one that several share is divided between them."""
    shares: dict[str, float] = dict(zip(SPLITS, spec.shares, strict=True))
    made: dict[str, tuple[Problem, ...]] = {}
    for name_of_set, problems in sets.items():
        members = [split for split in SPLITS if splits[split] == name_of_set]
        total = sum(shares[split] for split in members)
        unseen = spec.unseen if "test" in members else 0.0
        if unseen and (len(members) == 1 or spec.split == "by-template"):
            raise CcaError("task.unseen: expected a test split that is divided within templates; leave it out")
        parts = divide(problems, [shares[s] / total for s in members], Division(spec.split, unseen, seed))
        for split, part in zip(members, parts, strict=True):
            made[split] = tuple(draw_some(part, spec.limit, seed, split))
    rule = {"rule": spec.split, "shares": list(spec.shares), "unseen": spec.unseen, "seed": seed}
    return Task(name, made["train"], made["validation"], made["test"], prompts=prompts, origin={"split": rule})


def _prompts(spec: PromptSpec, tokenizer: Any, today: date | None, default: str) -> Prompts:
    style = spec.prompt or default
    return make_prompts(style, tokenizer, system=spec.system, thinking=spec.thinking, stop=spec.stop, today=today)


def _check_keys(spec: TaskSource, allowed: frozenset[str], prompts: bool = True) -> None:
    """Raise CcaError for a key that means nothing to this source."""
    allowed |= {"source", *(PromptSpec.model_fields if prompts else ())}
    for key in sorted(spec.model_fields_set - allowed):
        raise CcaError(f"task.{key}: not a key of the source {spec.source!r}; its keys: {', '.join(sorted(allowed))}")


def load_user_task(name: str, allow_code: bool, seed: int, prompts: Prompts) -> dict[str, Any]:
    """The problems by key that the function gave, ``judge`` and ``retention``, checked.

    Raises CcaError when code was not allowed, there is no such function, or it gave something else.
    """
    if not allow_code:
        raise CcaError(f"task {name!r} is code of yours: allow it explicitly (allow_code) to import and run it")
    given = import_function("task", name)(seed)
    if not isinstance(given, Mapping):
        given = {"problems": given}
    unknown = sorted(set(given) - set(USER_KEYS))
    if unknown:
        raise CcaError(f"task {name!r}: unknown key {unknown[0]!r} in what it gave; expected {', '.join(USER_KEYS)}")
    if ("problems" in given) == any(split in given for split in SPLITS):
        raise CcaError(
            f"task {name!r}: expected 'problems' or {', '.join(SPLITS)} in what it gave, got {sorted(given)}"
        )
    missing = [split for split in SPLITS if "problems" not in given and split not in given]
    if missing:
        raise CcaError(f"task {name!r}: {missing[0]!r} is missing in what it gave")
    sets = {key: given[key] for key in ("problems", *SPLITS) if key in given}
    made = {key: _user_problems(f"task {name!r}, {key}", rows, prompts) for key, rows in sets.items()}
    retention = {
        str(key): tuple(_user_problems(f"task {name!r}, retention {key}", rows, prompts))
        for key, rows in dict(given.get("retention") or {}).items()
    }
    return {**made, "judge": _user_judge(name, given.get("judge")), "retention": retention}


def _user_problems(where: str, rows: Any, prompts: Prompts) -> list[Problem]:
    if not isinstance(rows, list | tuple) or not all(isinstance(row, Mapping | Problem) for row in rows):
        raise CcaError(f"{where}: expected a list of rows (mappings), got {type(rows).__name__}")
    if all(isinstance(row, Problem) for row in rows) and rows:
        return list(rows)
    return problems_of(((f"{where}, row {n}", dict(row)) for n, row in enumerate(rows)), where, prompts)


def _user_judge(name: str, judge: Any) -> Judge | str | None:
    if judge is None or isinstance(judge, str):
        return judge
    if all(hasattr(judge, method) for method in ("finished", "check_gold", "name")):
        return judge if "cut_off" in signature(judge).parameters else FunctionJudge(judge.name, judge)
    if callable(judge):
        return FunctionJudge(f"{name} (judge)", judge)
    raise CcaError(f"task {name!r}: expected a judge's name or a function as 'judge', got {type(judge).__name__}")
