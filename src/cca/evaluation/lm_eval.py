"""lm-evaluation-harness on a model object: retention and targets by the names everybody uses.

The base and the edited model are measured the same way: `HFLM` is handed the model object itself, never a name with
``peft=`` (that resizes the embeddings to the tokenizer's length and changes every log-probability). Settings are
lm-eval's own defaults, so its command on the merged checkpoint gives the same numbers.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from numbers import Real
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cca.errors import CcaError, suggestion
from cca.evaluation.settings import LmEvalConfig
from cca.evaluation.significance import cluster_p, mcnemar_p, paired_gain_interval
from cca.files import Row

NEEDS = 'lm-evaluation-harness is needed: pip install -e ".[lm-eval]"'
MODULES = ("lm_eval", "lm_eval.loggers", "lm_eval.models.huggingface")
PREFERRED = ("acc", "exact_match", "em", "f1")
"""Metrics that speak for a task, best first; else its first one."""


DEFAULTS = LmEvalConfig()


@dataclass(frozen=True)
class Outcome:
    """What lm-eval says of one task, or of a group as one."""

    metrics: dict[str, float]
    """Every number, under lm-eval's own keys ("acc,none", "acc_stderr,none")."""
    metric: str
    """The metric that speaks for the task."""
    value: float
    documents: dict[str, list[float]]
    """That metric of every document, by leaf task, in the order of the documents."""

    @property
    def is_fraction(self) -> bool:
        return all(0 <= value <= 1 for values in self.documents.values() for value in values)

    @staticmethod
    def of(results: Row, task: str) -> Outcome:
        """From lm-eval's results. Raises CcaError for a task without a metric that each document has.

        The tasks of a group may have different metrics: each one's documents count by its own.
        """
        documents: dict[str, list[float]] = {}
        metrics: list[str] = []
        filters: list[str] = []
        for leaf, own in sorted(results["samples"].items()):
            metric, chosen = _metric(own, task), own[0]["filter"]
            rows = sorted((row for row in own if row["filter"] == chosen), key=lambda row: row["doc_id"])
            documents[leaf] = [float(row[metric]) for row in rows]
            metrics.append(metric)
            filters.append(chosen)
        reported = results["results"].get(task, {})
        numbers = {key: float(value) for key, value in reported.items() if isinstance(value, Real) and "," in key}
        values = [value for leaf in documents.values() for value in leaf]
        name = "/".join(dict.fromkeys(metrics))
        return Outcome(numbers, name, numbers.get(f"{name},{filters[0]}", sum(values) / len(values)), documents)


def _metric(rows: Sequence[Row], task: str) -> str:
    names = [name for name in rows[0]["metrics"] if all(isinstance(row.get(name), Real) for row in rows)]
    metric = next((name for name in PREFERRED if name in names), names[0] if names else None)
    if metric is None:
        raise CcaError(f"lm-eval task {task}: expected a metric with a number for each document, got none")
    return metric


def run_tasks(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[str],
    settings: LmEvalConfig = DEFAULTS,
    name: str = "model",
    save_to: Path | None = None,
) -> dict[str, Outcome]:
    """The outcome of each task (a group counts as one), for the model as it stands.

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
    found: dict[str, Outcome] = {}
    for task in tasks:
        # A copy: lm-eval may give the tokenizer a padding token.
        adapter = huggingface.HFLM(
            pretrained=model, tokenizer=copy.deepcopy(tokenizer), backend="causal", batch_size=settings.batch_size
        )
        tracker = None if save_to is None else loggers.EvaluationTracker(output_path=str(save_to))
        try:
            results = lm_eval.simple_evaluate(
                model=adapter, model_args={"pretrained": name}, tasks=[task], num_fewshot=settings.num_fewshot,
                batch_size=settings.batch_size, limit=settings.limit, log_samples=True,
                apply_chat_template=settings.chat_template, evaluation_tracker=tracker, task_manager=manager,
            )  # fmt: skip
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, AssertionError) as error:
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise CcaError(f"lm-eval task {task}: {reason}") from error
        assert results is not None, "one process has the results"
        found[task] = Outcome.of(results, task)
        if tracker is not None and save_to is not None:
            _save(tracker, save_to, dict(results))
    return found


def compared(
    base: Mapping[str, Outcome], patched: Mapping[str, Outcome] | None = None, seed: int = 0
) -> dict[str, Row]:
    """For each task what lm-eval says, of one model or of both, and the paired change of the metric that speaks for it.

    ``base`` and ``patched`` are fractions and ``points`` percentage points; a task whose metric is no fraction has its
    ``metrics`` alone.
    """
    rows: dict[str, Row] = {}
    for task, before in base.items():
        after = None if patched is None else patched[task]
        sides = {"base": before} if after is None else {"base": before, "patched": after}
        metrics = {key: {side: own.metrics[key] for side, own in sides.items()} for key in before.metrics}
        count = sum(map(len, before.documents.values()))
        rows[task] = {"metrics": metrics, "metric": before.metric, "problems": count}
        if all(own.is_fraction for own in sides.values()):
            rows[task] |= {side: own.value for side, own in sides.items()}
            rows[task] |= {} if after is None else _change(before, after, seed)
    return rows


def _change(before: Outcome, after: Outcome, seed: int) -> Row:
    """Documents are paired; of a group, whole tasks vary together."""
    leaves = [leaf for leaf, values in before.documents.items() for _ in values]
    old, new = ([value for leaf in before.documents for value in side.documents[leaf]] for side in (before, after))
    low, high = paired_gain_interval(old, new, leaves)
    row: Row = {"points": 100 * (after.value - before.value), "interval": [100 * low, 100 * high]}
    if set(old) | set(new) <= {0.0, 1.0}:
        row["p_value"] = cluster_p(old, new, leaves, seed)
        row["mcnemar_p"] = mcnemar_p([value == 1 for value in old], [value == 1 for value in new])
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
            raise CcaError(f"lm-eval: no task {task!r} (tasks of your own: include_path){suggestion(task, known)}")


def _save(tracker: Any, folder: Path, results: Row) -> None:
    """lm-eval's own files. Raises CcaError when it wrote none: it only logs such faults."""
    before = set(folder.rglob("results_*.json"))
    samples = results.pop("samples")
    tracker.save_results_aggregated(results=results, samples=samples)
    for task, rows in samples.items():
        tracker.save_results_samples(task_name=task, samples=copy.deepcopy(rows))
    if not set(folder.rglob("results_*.json")) - before:
        raise CcaError(f"{folder}: lm-eval could not write its results there")
