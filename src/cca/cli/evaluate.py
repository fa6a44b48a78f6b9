"""``cca evaluate`` on any model, patch or pair of models, without a run folder.

Every model that is compared is asked the same: greedy answers to a task's problems (by seed, where the task is sampled
or split with one) and to those of its other skills, and any tasks of lm-evaluation-harness. Prompts are made again for
each model: its chat template may be its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cca.cli.console import NO_MODEL, check_new, listed, model_path, parse_target
from cca.engines.decoding import context_length
from cca.engines.hf import HFEngine
from cca.errors import CcaError
from cca.evaluation import lm_eval as harness
from cca.evaluation.accuracy import Measured, check_seeds_matter, figures, measure, skill_change
from cca.files import Row, write_json, write_rows
from cca.models.loading import LoadedModel, choose_device, load_model
from cca.patches.patch_file import digest, load_patch
from cca.pivots.traces import Grader, longest_completion
from cca.problems.judges.judge import Judge
from cca.problems.problem import Problem
from cca.problems.sources import open_task, whole_file
from cca.problems.task import Task, check_answers, lm_eval_tasks, task_judge, with_retention
from cca.problems.task_config import SPLITS, TaskSource
from cca.runs.config import Config
from cca.runs.folder.provenance import versions
from cca.runs.progress import RunProgress

FORMAT, VERSION = "cca.comparison", 1


@dataclass(frozen=True)
class Asked:
    """What the command line says. Exactly one model, and at most one other thing to hold against it."""

    task: str | None = None
    model: str | None = None
    patch: Path | None = None
    against: str | None = None
    split: str | None = None
    seeds: tuple[int, ...] = ()
    max_new_tokens: int | None = None
    lm_eval: tuple[str, ...] = ()
    include_path: Path | None = None
    limit: int | None = None
    device: str | None = None
    overrides: tuple[str, ...] = ()
    out: Path = Path("results.json")
    force: bool = False

    @property
    def whole_file(self) -> bool:
        return self.task is not None and Path(self.task).suffix == ".jsonl"


@dataclass
class Answers:
    """One model's: to the task by seed, to its other skills, to lm-eval's tasks."""

    task: dict[int, Measured] = field(default_factory=dict)
    retention: dict[str, Measured] = field(default_factory=dict)
    harness: dict[str, harness.Outcome] = field(default_factory=dict)
    about: Row = field(default_factory=dict)

    def rows(self, side: str) -> list[Row]:
        """Every single answer, for the file next to the results."""
        sets = [*((str(seed), own) for seed, own in self.task.items()), *self.retention.items()]
        return [
            {
                "side": side, "set": name, "problem": problem.id, "template": problem.template,
                "verdict": trace.verdict, "answer": trace.answer, "gold": problem.answer, "text": trace.text,
            }
            for name, own in sets
            for problem, trace in zip(own.problems, own.traces, strict=True)
        ]  # fmt: skip


def evaluate(wanted: Asked, progress: RunProgress) -> Row:
    """Measure, and write the results, with every answer and lm-eval's own files next to them.

    Raises CcaError for what is missing, unknown, or cannot be loaded, asked or judged.
    """
    for path in (wanted.out, _answers_file(wanted.out)):
        check_new(path, wanted.force)
    config = _config(wanted)
    patch = None if wanted.patch is None else load_patch(wanted.patch)
    place = config.device_map or choose_device(config.device)
    progress.say(f"device: {place}")
    loaded = _load(config, config.model, place, progress)
    sides = {"base": _about(loaded)}
    answers = {"base": _ask(wanted, config, loaded, "base", progress)}
    if patch is not None or wanted.against is not None:
        if wanted.against is not None:
            del loaded  # one model in memory at a time
            loaded = _load(config, wanted.against, place, progress)
        sides["patched"] = _about(loaded)
        with nullcontext() if patch is None else patch.applied(loaded.model):
            answers["patched"] = _ask(wanted, config, loaded, "patched", progress)
        if patch is not None:
            sides["patched"] |= {"patch": str(wanted.patch), "patch_digest": digest(patch)}
    base = answers["base"]
    row = {
        "format": FORMAT, "version": VERSION, "models": sides, **base.about, "split": wanted.split or "test",
        "seeds": sorted(base.task), **results(base, answers.get("patched"), config.seed), "device": place,
        "versions": versions(),
    }  # fmt: skip
    write_json(wanted.out, row)
    rows = [row for side, own in answers.items() for row in own.rows(side)]
    if rows:
        write_rows(_answers_file(wanted.out), "cca.answers", 1, rows)
    return row


def results(base: Answers, patched: Answers | None, seed: int) -> Row:
    """The figures of one model, or of two on the same problems, with the names of a run's report.json."""
    row: Row = figures(base.task, None if patched is None else patched.task, seed) if base.task else {}
    row["retention"] = {
        name: {"problems": len(own.problems), "base": own.results.accuracy}
        if patched is None
        else skill_change(own.results, patched.retention[name].results, seed)
        for name, own in base.retention.items()
    } | harness.compared(base.harness, None if patched is None else patched.harness, seed)
    return row


def remarks(row: Row) -> Iterator[str]:
    """What the table leaves out: each side's own interval and unreadable answers, and the spread over seeds."""
    for side, about in row["models"].items():
        own = row.get(side)
        if own:
            low, high = own["interval"]
            yield (
                f"{side}: {about['name']}{' with ' + about['patch'] if 'patch' in about else ''}: "
                f"{own['accuracy']:.1%} (95 %: {low:.1%} to {high:.1%}) of {own['problems']} problems right, "
                f"{own['unreadable']:.1%} unreadable ({own['cut_off']:.1%} cut off at the longest completion)"
            )
    for key, unit in (("base", 100), ("patched", 100), ("points", 1)):
        spread = row.get("by_seed", {}).get(key)
        if spread:
            yield f"over seeds, {key}: {unit * spread['mean']:.1f} ± {unit * spread['sd']:.1f} (mean, sd)"


def numbers(option: str, text: str | None) -> tuple[int, ...]:
    """The whole numbers of "0, 1, 2", each once. Raises CcaError naming the option for anything else."""
    words = listed(text)
    if not all(word.isascii() and word.isdigit() for word in words):
        raise CcaError(f"{option}: expected whole numbers from 0, separated by commas, got {text!r}")
    return tuple(dict.fromkeys(int(word) for word in words))


def _config(wanted: Asked) -> Config:
    if wanted.task is None and not wanted.lm_eval:
        raise CcaError("evaluate: expected --task, --lm-eval or both, or a run folder; got none of them")
    if wanted.patch is not None and wanted.against is not None:
        raise CcaError("evaluate: expected --patch or --against, got both")
    if wanted.split not in (None, *SPLITS):
        raise CcaError(f"--split: expected {', '.join(SPLITS)}, got {wanted.split!r}")
    if wanted.task is None and wanted.seeds:
        raise CcaError("--seeds: lm-eval's tasks have no seeds of ours; they go with --task")
    config = parse_target(wanted.task or "none", wanted.overrides, model=wanted.model, device=wanted.device)
    if config.model == NO_MODEL:
        raise CcaError("evaluate: expected --model, or a run.yaml that names one")
    if wanted.whole_file and (wanted.split or wanted.seeds):
        raise CcaError(f"{wanted.task}: all of a problem file is measured; --split and --seeds are for tasks")
    return config


def _tasks(wanted: Asked, config: Config, tokenizer: Any) -> Mapping[int, Task]:
    """The task of each seed; none where lm-eval's tasks are all that is asked."""
    if wanted.task is None:
        return {}
    if wanted.whole_file and isinstance(config.task, TaskSource):
        opened = {config.seed: whole_file(config.task, tokenizer)}
    else:
        opened = {
            seed: open_task(config.task, seed, tokenizer=tokenizer, allow_code=config.allow_code)
            for seed in wanted.seeds or (config.seed,)
        }
    return {seed: with_retention(task, config.retention) for seed, task in opened.items()}


def _ask(wanted: Asked, config: Config, loaded: LoadedModel, side: str, progress: RunProgress) -> Answers:
    """The answers of the model as it stands."""
    answers, tokenizer = Answers(), loaded.codec.tokenizer

    def measured(problems: Sequence[Problem], judge: Judge, what: str) -> Measured:
        longest = wanted.max_new_tokens or config.traces.max_new_tokens
        longest = longest or longest_completion(problems, loaded.codec, context_length(loaded.model))
        engine = HFEngine(loaded.model, config.traces.batch_size)
        with progress.work(f"{side}: {what}", len(problems)) as advance:
            return measure(problems, Grader(loaded.codec, judge), engine, longest, advance)

    for seed, task in _tasks(wanted, config, tokenizer).items():
        judge = task_judge(task, config.judge, allow_code=config.allow_code)
        check_answers(task, judge)
        problems: tuple[Problem, ...] = getattr(task, wanted.split or "test")
        check_seeds_matter([*(own.problems for own in answers.task.values()), problems])
        answers.task[seed] = measured(problems, judge, task.name)
        answers.about = {"task": task.origin, "judge": judge.name, "fingerprint": task.fingerprint}
        if not answers.retention:  # the other skills do not depend on the seed, or hardly
            answers.retention = {name: measured(own, judge, name) for name, own in task.retention.items()}
    given = config.evaluate.lm_eval
    settings = given.model_copy(
        update={"include_path": wanted.include_path or given.include_path, "limit": wanted.limit or given.limit}
    )
    retention = lm_eval_tasks(config.retention) if wanted.task else []
    for name in dict.fromkeys([*wanted.lm_eval, *retention]):
        with progress.work(f"{side}: lm-eval {name}", None):
            folder = wanted.out.with_suffix(".lm_eval") / side
            answers.harness |= harness.run_tasks(loaded.model, tokenizer, [name], settings, loaded.name, folder)
    return answers


def _load(config: Config, model: str, place: str, progress: RunProgress) -> LoadedModel:
    revision = config.revision if model == config.model else None
    with progress.work(f"loading {model}", None):
        return load_model(
            model_path(model), revision, config.dtype, place, config.trust_remote_code,
            config.attn_implementation,
        )  # fmt: skip


def _about(loaded: LoadedModel) -> Row:
    return {
        "name": loaded.name, "revision": loaded.commit or loaded.revision, "fingerprint": loaded.fingerprint,
        "dtype": str(loaded.model.dtype).removeprefix("torch."),
    }  # fmt: skip


def _answers_file(out: Path) -> Path:
    return out.with_suffix(".answers.jsonl")
