"""lm-evaluation-harness on a model object: retention and targets by the names everybody uses.

The base and the edited model are measured the same way: `HFLM` is handed the model object itself, never a name with
``peft=`` (that resizes the embeddings to the tokenizer's length and changes every log-probability). Settings are
lm-eval's own defaults, so its command on the merged checkpoint gives the same numbers.
"""

from __future__ import annotations

import copy
import difflib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from numbers import Real
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cca.errors import CcaError
from cca.evaluation.significance import mcnemar_p, paired_gain_interval
from cca.files import Row

NEEDS = 'lm-evaluation-harness is needed: pip install "cca[lm-eval]"'
MODULES = ("lm_eval", "lm_eval.loggers", "lm_eval.models.huggingface")
PREFERRED = ("acc", "exact_match", "em", "f1")
"""Metrics that speak for a task, best first; else its first one."""


@dataclass(frozen=True)
class HarnessSettings:
    """As lm-eval's command takes them. ``limit``: only the first so many documents of each task."""

    include_path: Path | None = None
    limit: int | None = None
    num_fewshot: int | None = None
    batch_size: int = 1
    chat_template: bool = False


DEFAULTS = HarnessSettings()


@dataclass(frozen=True)
class Score:
    """The metric that speaks for a task: its value, and each document's by (leaf task, document)."""

    metric: str
    value: float
    documents: dict[tuple[str, int], float]

    @property
    def is_fraction(self) -> bool:
        return all(0 <= value <= 1 for value in self.documents.values())


def run_tasks(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[str],
    settings: HarnessSettings = DEFAULTS,
    name: str = "model",
    save_to: Path | None = None,
) -> dict[str, Row]:
    """lm-eval's results of each task (a group counts as one), for the model as it stands.

    ``save_to`` is a folder that gets lm-eval's own results and samples files, as its ``--output_path`` does, under
    ``name``. Raises CcaError when lm-eval is not installed, for an unknown task, and where lm-eval refuses one.
    """
    lm_eval, loggers, huggingface = (_module(module) for module in MODULES)
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    include = settings.include_path
    if include is not None and not include.is_dir():
        raise CcaError(f"{include}: expected a folder of lm-eval task files, got no folder")
    manager = _manager(None if include is None else str(include.resolve()))
    _check_names(tasks, manager.all_tasks)
    found: dict[str, Row] = {}
    for task in tasks:
        # A copy: lm-eval may give the tokenizer a padding token.
        adapter = huggingface.HFLM(
            pretrained=model,
            tokenizer=copy.deepcopy(tokenizer),
            backend="causal",
            batch_size=settings.batch_size,
        )
        tracker = None if save_to is None else loggers.EvaluationTracker(output_path=str(save_to))
        try:
            results = lm_eval.simple_evaluate(
                model=adapter,
                model_args={"pretrained": name},
                tasks=[task],
                num_fewshot=settings.num_fewshot,
                batch_size=settings.batch_size,
                limit=settings.limit,
                log_samples=True,
                apply_chat_template=settings.chat_template,
                evaluation_tracker=tracker,
                task_manager=manager,
            )
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, AssertionError) as error:
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise CcaError(f"lm-eval task {task}: {reason}") from error
        assert results is not None, "one process has the results"
        found[task] = dict(results)
        if tracker is not None and save_to is not None:
            _save(tracker, save_to, dict(results))
    return found


def metrics_of(results: Row, task: str) -> dict[str, float]:
    """Every number lm-eval gives for a task, under its own keys ("acc,none", "acc_stderr,none")."""
    own = results["results"].get(task, {})
    return {key: float(value) for key, value in own.items() if isinstance(value, Real) and "," in key}


def score_of(results: Row, task: str) -> Score:
    """The metric that speaks for a task. Raises CcaError for a task without a metric that each document has."""
    samples: Mapping[str, Sequence[Row]] = results["samples"]
    rows = [(leaf, row) for leaf in samples for row in samples[leaf]]
    usual = [
        metric
        for metric in rows[0][1]["metrics"]
        if all(isinstance(row.get(metric), Real) for _, row in rows)
    ]
    metric = next((m for m in PREFERRED if m in usual), usual[0] if usual else None)
    if metric is None:
        raise CcaError(f"lm-eval task {task}: expected a metric with a number for each document, got none")
    chosen = rows[0][1]["filter"]
    documents = {
        (leaf, int(row["doc_id"])): float(row[metric]) for leaf, row in rows if row["filter"] == chosen
    }
    mean = sum(documents.values()) / len(documents)
    return Score(metric, metrics_of(results, task).get(f"{metric},{chosen}", mean), documents)


def compared(base: Mapping[str, Row], patched: Mapping[str, Row], seed: int = 0) -> dict[str, Row]:
    """For each task what lm-eval says of both, and the paired change of the metric that speaks for it.

    ``base`` and ``patched`` are fractions and ``points`` percentage points; a task whose metric is no fraction has its
    ``metrics`` alone.
    """
    rows: dict[str, Row] = {}
    for task in base:
        before, after = score_of(base[task], task), score_of(patched[task], task)
        metrics = {
            key: {"base": value, "patched": metrics_of(patched[task], task)[key]}
            for key, value in metrics_of(base[task], task).items()
        }
        rows[task] = {"metrics": metrics, "metric": before.metric, "problems": len(before.documents)}
        if before.is_fraction and after.is_fraction:
            rows[task] |= _change(before, after, seed)
    return rows


def _change(before: Score, after: Score, seed: int) -> Row:
    """Documents are paired; of a group, whole tasks are resampled."""
    pairs = [(before.documents[key], after.documents[key]) for key in before.documents]
    old, new = ([pair[side] for pair in pairs] for side in (0, 1))
    low, high = paired_gain_interval(old, new, [leaf for leaf, _ in before.documents], seed)
    row: Row = {
        "base": before.value,
        "patched": after.value,
        "points": 100 * (after.value - before.value),
        "interval": [100 * low, 100 * high],
    }
    if set(old) | set(new) <= {0.0, 1.0}:
        row["p_value"] = mcnemar_p([value == 1 for value in old], [value == 1 for value in new])
    return row


def _module(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise CcaError(NEEDS) from error


@lru_cache(maxsize=4)
def _manager(include_path: str | None) -> Any:
    """lm-eval's index of task files: it reads thousands of them, for seconds."""
    return _module("lm_eval.tasks").TaskManager(include_path=include_path)


def _check_names(tasks: Sequence[str], known: Sequence[str]) -> None:
    for task in tasks:
        if task not in known:
            near = difflib.get_close_matches(task, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise CcaError(f"lm-eval: no task {task!r} (tasks of your own: include_path){hint}")


def _save(tracker: Any, folder: Path, results: Row) -> None:
    """lm-eval's own files. Raises CcaError when it wrote none: it only logs such faults."""
    before = set(folder.rglob("results_*.json"))
    samples = results.pop("samples")
    tracker.save_results_aggregated(results=results, samples=samples)
    for task, rows in samples.items():
        tracker.save_results_samples(task_name=task, samples=copy.deepcopy(rows))
    if not set(folder.rglob("results_*.json")) - before:
        raise CcaError(f"{folder}: lm-eval could not write its results there")
