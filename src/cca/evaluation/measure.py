"""Measuring models without a run: greedy pass@1 on problems, alone or one model held against another.

The figures have the names they have in a run's report.json, so the same tables show them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from cca.engines.engine import Engine, Progress
from cca.errors import CcaError
from cca.evaluation.accuracy import Results, comparison, per_template, summary
from cca.files import Row
from cca.pivots.traces import Grader, Trace, greedy_traces
from cca.problems.problem import Problem


@dataclass(frozen=True)
class Measured:
    """One model's greedy answers to a set of problems."""

    problems: tuple[Problem, ...]
    traces: tuple[Trace, ...]

    @property
    def results(self) -> Results:
        return Results(self.problems, tuple(trace.verdict for trace in self.traces))


def measure(
    problems: Sequence[Problem],
    grader: Grader,
    engine: Engine,
    max_new_tokens: int,
    progress: Progress | None = None,
) -> Measured:
    """The greedy answers of the model as it stands."""
    return Measured(tuple(problems), tuple(greedy_traces(problems, grader, engine, max_new_tokens, progress)))


def figures(base: Mapping[int, Measured], patched: Mapping[int, Measured] | None, seed: int = 0) -> Row:
    """``base``, and with a second model ``patched``, ``gain`` and ``templates``; ``by_seed`` where there are several.

    Both are measured by task seed, on the same problems. The seeds' problems are pooled, each question once, so that
    intervals and the McNemar test see independent problems.
    """
    before = _pooled(base)
    row: dict[str, Any] = {"base": summary(before, seed)}
    if patched is not None:
        after = _pooled(patched)
        row |= {
            "patched": summary(after, seed),
            "gain": comparison(before, after, seed),
            "templates": per_template(before, after),
        }
    if len(base) > 1:
        row["by_seed"] = _by_seed(base, patched)
    return row


def check_seeds_matter(sets: Sequence[Sequence[Problem]]) -> None:
    """Raise CcaError when several seeds gave the same problems: greedy answers to them would be the same too."""
    if len(sets) > 1 and {p.prompt for p in sets[-1]} == {p.prompt for p in sets[0]}:
        raise CcaError(
            "--seeds: every seed gives the same problems of this task, and greedy answers are the same each time; "
            "give one seed, or a task that is sampled or split with the seed"
        )


def _pooled(measured: Mapping[int, Measured]) -> Results:
    pooled: dict[str, tuple[Problem, Trace]] = {}
    for own in measured.values():
        for problem, trace in zip(own.problems, own.traces, strict=True):
            # By id within one seed, where a file may ask a question twice on purpose.
            key = problem.prompt if len(measured) > 1 else problem.id
            pooled.setdefault(f"{problem.template}\n{key}", (problem, trace))
    pairs = list(pooled.values())
    return Results(tuple(problem for problem, _ in pairs), tuple(trace.verdict for _, trace in pairs))


def _by_seed(base: Mapping[int, Measured], patched: Mapping[int, Measured] | None) -> Row:
    rows: list[Row] = []
    for seed, own in base.items():
        row: Row = {"seed": seed, "problems": len(own.problems), "base": own.results.accuracy}
        if patched is not None:
            row["patched"] = patched[seed].results.accuracy
            row["points"] = 100 * (row["patched"] - row["base"])
        rows.append(row)
    spread = {
        key: {"mean": mean(row[key] for row in rows), "sd": stdev(row[key] for row in rows)}
        for key in ("base", "patched", "points")
        if key in rows[0]
    }
    return {"each": rows, **spread}
