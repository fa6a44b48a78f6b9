"""``cca evaluate`` on any model, patch or pair of models, without a run folder.

An `Examination` is what is asked of a model, the same of every model that is compared: greedy answers to a task's
problems (by seed, where the task is sampled or split with one) and to those of its other skills, and any tasks of
lm-evaluation-harness. Prompts are made anew for each model: its chat template may be its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cca.cli.arguments import NO_MODEL, model_path, parse_target
from cca.engines.engine import Progress
from cca.engines.hf import HFEngine, context_length
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
Work = Callable[[str, int | None], AbstractContextManager[Progress]]
"""Told of a piece of work and how much there is of it; gives the function that is told what is done."""


@dataclass(frozen=True)
class Examination:
    """``tasks`` gives the task of each seed for a tokenizer; none where lm-eval's tasks are all that is asked."""

    tasks: Callable[[Any], dict[int, Task]]
    judge: Callable[[Task], Judge]
    split: str = "test"
    max_new_tokens: int | None = None
    batch_size: int = 64
    harness_tasks: tuple[str, ...] = ()
    harness_settings: harness.LmEvalConfig = harness.DEFAULTS

    def of(self, loaded: LoadedModel, side: str, work: Work, harness_folder: Path | None = None) -> Answers:
        """What the model as it stands makes of it. lm-eval's own files go into ``harness_folder``."""
        answers = Answers()
        for seed, task in self.tasks(loaded.codec.tokenizer).items():
            self._ask(seed, task, loaded, side, work, answers)
        for name in self.harness_tasks:
            with work(f"{side}: lm-eval {name}", None):
                answers.harness |= harness.run_tasks(
                    loaded.model, loaded.codec.tokenizer, [name], self.harness_settings, loaded.name, harness_folder
                )  # fmt: skip
        return answers

    def _ask(self, seed: int, task: Task, loaded: LoadedModel, side: str, work: Work, answers: Answers) -> None:
        judge = self.judge(task)
        check_answers(task, judge)
        problems: tuple[Problem, ...] = getattr(task, self.split)
        check_seeds_matter([*(own.problems for own in answers.task.values()), problems])
        answers.task[seed] = self._measured(problems, judge, loaded, f"{side}: {task.name}", work)
        answers.about = {"task": task.origin, "judge": judge.name, "fingerprint": task.fingerprint}
        if len(answers.task) == 1:  # the other skills do not depend on the seed, or hardly
            answers.retention = {
                name: self._measured(own, judge, loaded, f"{side}: {name}", work)
                for name, own in task.retention.items()
            }

    def _measured(
        self, problems: Sequence[Problem], judge: Judge, loaded: LoadedModel, what: str, work: Work
    ) -> Measured:
        longest = self.max_new_tokens or longest_completion(problems, loaded.codec, context_length(loaded.model))
        engine = HFEngine(loaded.model, self.batch_size)
        with work(what, len(problems)) as progress:
            return measure(problems, Grader(loaded.codec, judge), engine, longest, progress)


@dataclass
class Answers:
    """One model's: to the task by seed, to its other skills, to lm-eval's tasks."""

    task: dict[int, Measured] = field(default_factory=dict)
    retention: dict[str, Measured] = field(default_factory=dict)
    harness: dict[str, harness.Outcome] = field(default_factory=dict)
    about: Row = field(default_factory=dict)

    def rows(self, side: str) -> list[Row]:
        """Every single answer, for the file beside the results."""
        sets = [*((str(seed), own) for seed, own in self.task.items()), *self.retention.items()]
        return [
            {
                "side": side,
                "set": name,
                "problem": problem.id,
                "template": problem.template,
                "verdict": trace.verdict,
                "answer": trace.answer,
                "gold": problem.answer,
                "text": trace.text,
            }
            for name, own in sets
            for problem, trace in zip(own.problems, own.traces, strict=True)
        ]


def results(base: Answers, patched: Answers | None, seed: int) -> Row:
    """The figures of one model, or of two on the same problems, with the names of a run's report.json."""
    row: Row = {}
    if base.task:
        row |= figures(base.task, None if patched is None else patched.task, seed)
    row["retention"] = {
        name: {"problems": len(own.problems), "base": own.results.accuracy}
        if patched is None
        else skill_change(own.results, patched.retention[name].results, seed)
        for name, own in base.retention.items()
    }
    row["retention"] |= harness.compared(base.harness, None if patched is None else patched.harness, seed)
    return row


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


def evaluate(wanted: Asked, progress: RunProgress) -> Row:
    """Measure, and write the results, every answer beside them, and lm-eval's own files in a folder beside them.

    Raises CcaError for what is missing, unknown, or cannot be loaded, asked or judged.
    """
    config = _config(wanted)
    examination = _examination(wanted, config)
    patch = None if wanted.patch is None else load_patch(wanted.patch)
    place = config.device_map or choose_device(config.device)
    progress.say(f"device: {place}")
    models = [_loaded(config, config.model, place, progress)]
    sides = {"base": _about(models[0])}
    measured = [examination.of(models[0], "base", progress.work, _harness_folder(wanted, "base"))]
    if patch is not None or wanted.against is not None:
        if wanted.against is not None:
            models.clear()  # one model in memory at a time
            models.append(_loaded(config, wanted.against, place, progress))
        sides["patched"] = _about(models[0])
        with nullcontext() if patch is None else patch.applied(models[0].model):
            measured.append(examination.of(models[0], "patched", progress.work, _harness_folder(wanted, "patched")))
        if patch is not None:
            sides["patched"] |= {"patch": str(wanted.patch), "patch_digest": digest(patch)}
    row = {
        "format": FORMAT, "version": VERSION, "models": sides, **measured[0].about, "split": examination.split,
        "seeds": sorted(measured[0].task),
        **results(measured[0], measured[1] if len(measured) > 1 else None, config.seed), "device": place,
        "versions": versions(),
    }  # fmt: skip
    write_json(wanted.out, row)
    _write_answers(wanted.out, dict(zip(sides, measured, strict=True)))
    return row


def told(row: Row) -> Iterator[str]:
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


def listed(text: str | None) -> tuple[str, ...]:
    """The words of "a, b"."""
    return tuple(word for word in (part.strip() for part in (text or "").split(",")) if word)


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
    return config


def _examination(wanted: Asked, config: Config) -> Examination:
    retention = config.retention if wanted.task else ()
    whole = wanted.task is not None and Path(wanted.task).suffix == ".jsonl"
    if whole and (wanted.split or wanted.seeds):
        raise CcaError(f"{wanted.task}: all of a problem file is measured; --split and --seeds are for tasks")

    def tasks(tokenizer: Any) -> dict[int, Task]:
        if wanted.task is None:
            return {}
        if whole and isinstance(config.task, TaskSource):
            return {config.seed: with_retention(whole_file(config.task, tokenizer), retention)}
        opened = {
            seed: open_task(config.task, seed, tokenizer=tokenizer, allow_code=config.allow_code)
            for seed in wanted.seeds or (config.seed,)
        }
        return {seed: with_retention(task, retention) for seed, task in opened.items()}

    given = config.evaluate.lm_eval
    return Examination(
        tasks,
        lambda task: task_judge(task, config.judge, allow_code=config.allow_code),
        wanted.split or "test",
        wanted.max_new_tokens or config.traces.max_new_tokens,
        config.traces.batch_size,
        tuple(dict.fromkeys([*wanted.lm_eval, *lm_eval_tasks(retention)])),
        given.model_copy(
            update={"include_path": wanted.include_path or given.include_path, "limit": wanted.limit or given.limit}
        ),
    )


def _loaded(config: Config, model: str, place: str, progress: RunProgress) -> LoadedModel:
    revision = config.revision if model == config.model else None
    with progress.work(f"loading {model}", None):
        return load_model(
            model_path(model), revision, config.dtype, place, config.trust_remote_code,
            config.attn_implementation,
        )  # fmt: skip


def _about(loaded: LoadedModel) -> Row:
    return {
        "name": loaded.name,
        "revision": loaded.revision,
        "fingerprint": loaded.fingerprint,
        "dtype": str(loaded.model.dtype).removeprefix("torch."),
    }


def _harness_folder(wanted: Asked, side: str) -> Path:
    return wanted.out.with_suffix(".lm_eval") / side


def _write_answers(out: Path, answers: dict[str, Answers]) -> None:
    rows: Sequence[Row] = [row for side, own in answers.items() for row in own.rows(side)]
    if rows:
        write_rows(out.with_suffix(".answers.jsonl"), "cca.answers", 1, rows)
