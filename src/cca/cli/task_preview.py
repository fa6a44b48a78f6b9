"""``cca task list`` and ``cca task preview``: which tasks there are, and exactly what a model sees of one."""

from __future__ import annotations

from collections.abc import Iterator

from cca.cli.asked import asked, codec_of
from cca.errors import CcaError
from cca.models.loading import Codec
from cca.pivots.grader import Grader
from cca.problems.datasets import NAMED
from cca.problems.judges.judge import Judge
from cca.problems.judges.registry import JUDGES
from cca.problems.problem import Problem
from cca.problems.prompts import STYLES
from cca.problems.sources import BUILT_IN, open_task
from cca.problems.task import Task, task_judge
from cca.problems.task_config import SPLITS
from cca.runs.config.config import Config


def listed() -> Iterator[str]:
    """Lines that name every source, prompt style and judge."""
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


def preview(
    what: str, overrides: list[str], model: str | None, split: str, count: int, seed: int | None
) -> Iterator[str]:
    """Lines that show ``count`` problems of a split as the model sees them."""
    if split not in SPLITS:
        raise CcaError(f"--split: expected {', '.join(SPLITS)}, got {split!r}")
    config = asked(what, overrides, model=model, seed=seed)
    codec = codec_of(config)
    tokenizer = codec.tokenizer if codec else None
    task = open_task(config.task, config.seed, tokenizer=tokenizer, allow_code=config.allow_code)
    judge = task_judge(task, config.judge, allow_code=config.allow_code)
    yield from _summary(task, judge)
    problems: tuple[Problem, ...] = getattr(task, split)
    for problem in problems[:count]:
        yield from _shown(problem, split, judge, codec, config)


def _summary(task: Task, judge: Judge) -> Iterator[str]:
    sizes = ", ".join(f"{split} {len(getattr(task, split))}" for split in SPLITS)
    unseen = {problem.template for problem in task.test} - task.seen_templates
    yield f"task {task.name}: {sizes} problems"
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
    token_ids = list(Grader(codec, judge).prompt_ids(problem))
    yield str(codec.tokenizer.decode(token_ids, skip_special_tokens=False))
    yield f"--- {len(token_ids)} tokens of {config.model} ---"
    yield " ".join(map(str, token_ids))
