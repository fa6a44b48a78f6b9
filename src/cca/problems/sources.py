"""Where a task's problems come from: `open_task` takes what run.yaml says and gives the `Task`.

A source is a built-in task, a dataset known by name (`cca.problems.named_datasets`), any dataset of the hub with a
field mapping, a problem file, a folder of templates, or a function of the user's. Each kind is one function below and
one line in `_open_source`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from cca.errors import CcaError
from cca.problems.dataset_rows import hub_rows, local_rows
from cca.problems.entry_points import made_by
from cca.problems.fields import check_fields, mapped, worked
from cca.problems.named_datasets import NAMED, TRAIN_AND_TEST
from cca.problems.problem import Problem, problems_of, read_problems
from cca.problems.prompts import Prompts, make_prompts
from cca.problems.splits import Division, divided, drawn
from cca.problems.task import Task as Task
from cca.problems.task import check_answers as check_answers
from cca.problems.task import with_retention as with_retention
from cca.problems.task_config import SPLITS, PromptSpec, TaskFiles, TaskSource

BUILT_IN = {"tinymath": "cca.tinymath.task"}
"""Task name -> module with ``load(seed) -> Task``."""
HUB = "hf:"
DIVIDING = frozenset({"split", "shares", "unseen", "limit"})
"""Keys of the sources that are divided into splits."""

_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def open_task(
    wanted: str | TaskFiles | TaskSource,
    seed: int = 0,
    *,
    tokenizer: Any = None,
    allow_code: bool = False,
) -> Task:
    """The task that a configuration names. The seed decides what is sampled and how it is divided.

    ``tokenizer`` is needed where prompts go through its chat template. Raises CcaError for anything unknown, missing
    or malformed, and for a user's function that was not allowed.
    """
    spec = TaskSource(source=wanted) if isinstance(wanted, str) else wanted
    if isinstance(spec, TaskFiles):
        task = _files(spec, _prompts(spec, "zero-shot", tokenizer))
    else:
        task = _open_source(spec, seed, tokenizer, allow_code)
    sizes = {split: len(getattr(task, split)) for split in SPLITS}
    given = spec.model_dump(mode="json", exclude_unset=True)
    return replace(
        task, origin={"task": given, **task.origin, "problems": sizes, "prompt": task.prompts.described()}
    )


def whole_file(spec: TaskSource, tokenizer: Any = None) -> Task:
    """All problems of a problem file as a test split, for measuring only."""
    _check_keys(spec, frozenset())
    prompts = _prompts(spec, "zero-shot", tokenizer)
    problems = tuple(read_problems(Path(spec.source), prompts))
    origin = {"task": spec.model_dump(mode="json", exclude_unset=True), "prompt": prompts.described()}
    return Task(Path(spec.source).stem, (), (), problems, prompts=prompts, origin=origin)


def built_in_task(name: str, seed: int) -> Task:
    """A task by its name alone."""
    return open_task(name, seed)


def task_from_files(train: Path, validation: Path, test: Path) -> Task:
    """A task of three problem files."""
    return open_task(TaskFiles(train=train, validation=validation, test=test))


def _open_source(spec: TaskSource, seed: int, tokenizer: Any, allow_code: bool) -> Task:
    source = spec.source
    if source in BUILT_IN:
        _check_keys(spec, frozenset(), prompts=False)
        load: Callable[[int], Task] = import_module(BUILT_IN[source]).load
        return load(seed)
    if source in NAMED:
        return _named(spec, seed, tokenizer)
    if source.startswith(HUB):
        return _hub(spec, seed, tokenizer)
    if Path(source).is_dir():
        return _templates(spec, seed, _prompts(spec, "few-shot-8", tokenizer))
    if Path(source).is_file():
        _check_keys(spec, DIVIDING)
        prompts = _prompts(spec, "zero-shot", tokenizer)
        return _divided(Path(source).stem, {"all": read_problems(Path(source), prompts)}, spec, seed, prompts)
    if _FUNCTION.fullmatch(source):
        return _function(spec, seed, _prompts(spec, "zero-shot", tokenizer), allow_code)
    known = [*BUILT_IN, *NAMED]
    near = difflib.get_close_matches(source, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise CcaError(
        f"task: expected {', '.join(known)}, hf:OWNER/DATASET, a problem file, a folder of templates or "
        f"package.module:function, got {source!r}{hint}"
    )


def _files(spec: TaskFiles, prompts: Prompts) -> Task:
    train, validation, test = (
        tuple(read_problems(path, prompts)) for path in (spec.train, spec.validation, spec.test)
    )
    return Task("files", train, validation, test, prompts=prompts)


def _named(spec: TaskSource, seed: int, tokenizer: Any) -> Task:
    _check_keys(spec, DIVIDING | {"variant", "path", "revision"})
    dataset = NAMED[spec.source]
    name = spec.variant or next(iter(dataset.variants))
    if name not in dataset.variants:
        raise CcaError(f"task.variant: {spec.source} has {', '.join(dataset.variants)}, got {name!r}")
    variant = dataset.variants[name]
    prompts, splits = _prompts(spec, dataset.prompt, tokenizer), _splits_there(spec, variant.splits)
    sets = {
        split: _dataset(spec, variant.hub, variant.configs, split, variant.fields, prompts)
        for split in dict.fromkeys(splits.values())
    }
    task = _divided(f"{spec.source} {name}", sets, spec, seed, prompts, splits)
    return replace(task, judge=dataset.judge, origin={**task.origin, "hub": variant.hub, "variant": name})


def _hub(spec: TaskSource, seed: int, tokenizer: Any) -> Task:
    _check_keys(spec, DIVIDING | {"variant", "path", "revision", "fields", "splits"})
    hub = spec.source.removeprefix(HUB)
    fields = spec.fields or {"question": "question", "answer": "answer"}
    check_fields(fields)
    splits = {**TRAIN_AND_TEST, **(spec.splits or {})}
    if spec.splits and "validation" not in spec.splits:
        splits["validation"] = splits["train"]
    splits = _splits_there(spec, splits)
    prompts = _prompts(spec, "zero-shot", tokenizer)
    sets = {
        split: _dataset(spec, hub, (spec.variant,), split, fields, prompts)
        for split in dict.fromkeys(splits.values())
    }
    return _divided(hub, sets, spec, seed, prompts, splits)


def _splits_there(spec: TaskSource, splits: Mapping[str, str]) -> Mapping[str, str]:
    """A local copy of one file is one split, divided between ours; read as several it would be in each."""
    one_file = spec.path is not None and spec.path.expanduser().is_file()
    return dict.fromkeys(SPLITS, splits["test"]) if one_file else splits


def _dataset(
    spec: TaskSource,
    hub: str,
    configs: Sequence[str | None],
    split: str,
    fields: Mapping[str, str],
    prompts: Prompts,
) -> list[Problem]:
    rows = []
    for config in configs:
        found = (
            local_rows(spec.path, config, split) if spec.path else hub_rows(hub, config, split, spec.revision)
        )
        prefix = f"{config}-" if len(configs) > 1 else ""
        for number, row in enumerate(found):
            where = f"{spec.path or hub}, {prefix}{split}, row {number}"
            rows.append((where, {"id": f"{prefix}{split}-{number}", **mapped(row, fields, where)}))
    return problems_of(rows, f"{spec.path or hub}, {split}", prompts)


def _templates(spec: TaskSource, seed: int, prompts: Prompts) -> Task:
    from cca.problems.checking import distinct_instances, template_generator
    from cca.problems.templates import load_templates

    _check_keys(spec, DIVIDING | {"instances"})
    folder = Path(spec.source)
    rows = []
    for template in load_templates(folder):
        instances = distinct_instances(template, template_generator(template, seed))
        for number, instance in zip(range(spec.instances), instances, strict=False):
            row = {
                "id": f"{template.name}-{number:04d}",
                "template": template.name,
                "question": instance.question,
                "answer": instance.answer,
                "solution": worked(instance.solution),
            }
            rows.append((f"{folder}, {row['id']}", row))
    return _divided(folder.name, {"all": problems_of(rows, str(folder), prompts)}, spec, seed, prompts)


def _function(spec: TaskSource, seed: int, prompts: Prompts, allow_code: bool) -> Task:
    _check_keys(spec, DIVIDING)
    made = made_by(spec.source, allow_code, seed, prompts)
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
    splits: Mapping[str, str] | None = None,
) -> Task:
    """``splits`` tells which of ``sets`` each split is made of; one that several share is divided between them."""
    splits = splits or dict.fromkeys(SPLITS, "all")
    shares: dict[str, float] = dict(zip(SPLITS, spec.shares, strict=True))
    made: dict[str, tuple[Problem, ...]] = {}
    for name_of_set, problems in sets.items():
        members = [split for split in SPLITS if splits[split] == name_of_set]
        total = sum(shares[split] for split in members)
        unseen = spec.unseen if "test" in members else 0.0
        if unseen and (len(members) == 1 or spec.split == "by-template"):
            raise CcaError(
                "task.unseen: expected a test split that is divided within templates; leave it out"
            )
        parts = divided(problems, [shares[s] / total for s in members], Division(spec.split, unseen, seed))
        for split, part in zip(members, parts, strict=True):
            made[split] = tuple(drawn(part, spec.limit, seed, split))
    rule = {"rule": spec.split, "shares": list(spec.shares), "unseen": spec.unseen, "seed": seed}
    return Task(
        name, made["train"], made["validation"], made["test"], prompts=prompts, origin={"split": rule}
    )


def _prompts(spec: PromptSpec, default: str, tokenizer: Any) -> Prompts:
    style = spec.prompt or default
    return make_prompts(style, tokenizer, system=spec.system, thinking=spec.thinking, stop=spec.stop)


def _check_keys(spec: TaskSource, allowed: frozenset[str], prompts: bool = True) -> None:
    """Raise CcaError for a key that means nothing to this source."""
    allowed |= {"source", *(PromptSpec.model_fields if prompts else ())}
    for key in sorted(spec.model_fields_set - allowed):
        raise CcaError(
            f"task.{key}: not a key of the source {spec.source!r}; its keys: {', '.join(sorted(allowed))}"
        )
