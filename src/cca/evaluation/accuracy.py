"""Exact-match accuracy of greedy answers, alone or two models on the same problems, and planted pivots found.

The figures have the names they have in a run's report.json, so the same tables show them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from cca.engines.engine import Engine, Progress, Tokens
from cca.errors import CcaError
from cca.evaluation.significance import accuracy_interval, cluster_p, mcnemar_p, paired_gain_interval
from cca.files import Row
from cca.pivots.pivot import Pivot, first_difference
from cca.pivots.traces import Grader, Trace, greedy_traces
from cca.problems.judges.judge import Verdict
from cca.problems.problem import Problem

TruePivot = tuple[Tokens, int, int]  # prefix, right token, wrong token


@dataclass(frozen=True)
class Results:
    """One model's verdicts on problems, in their order."""

    problems: tuple[Problem, ...]
    verdicts: tuple[Verdict, ...]
    cut_off: tuple[bool, ...] = ()
    """Where the token limit came before the answer; empty where nobody looked."""

    @property
    def right(self) -> list[bool]:
        return [verdict is Verdict.RIGHT for verdict in self.verdicts]

    @property
    def accuracy(self) -> float:
        """Fraction of right answers, in [0, 1]."""
        return sum(self.right) / len(self.verdicts)

    @property
    def unreadable(self) -> float:
        return sum(verdict is Verdict.UNREADABLE for verdict in self.verdicts) / len(self.verdicts)

    @property
    def share_cut_off(self) -> float | None:
        """Fraction of the answers that the token limit cut off; None where nobody looked."""
        return sum(self.cut_off) / len(self.verdicts) if self.cut_off else None

    def of_templates(self, templates: set[str]) -> Results:
        keep = [i for i, problem in enumerate(self.problems) if problem.template in templates]
        cut_off = tuple(self.cut_off[i] for i in keep) if self.cut_off else ()
        return Results(tuple(self.problems[i] for i in keep), tuple(self.verdicts[i] for i in keep), cut_off)


def summary(results: Results) -> Row:
    """Accuracy with its interval over templates, and the shares of answers unreadable and cut off."""
    interval = accuracy_interval(results.right, _clusters(results))
    return {
        "accuracy": results.accuracy,
        "interval": list(interval),
        "unreadable": results.unreadable,
        "cut_off": results.share_cut_off,
        "problems": len(results.problems),
    }


def comparison(base: Results, patched: Results, seed: int = 0) -> Row:
    """Gain in percentage points with its 95 % interval and p-value over templates, and the exact McNemar test."""
    low, high = paired_gain_interval(base.right, patched.right, _clusters(base))
    pairs = list(zip(base.right, patched.right, strict=True))
    return {
        "points": 100 * (patched.accuracy - base.accuracy),
        "interval": [100 * low, 100 * high],
        "p_value": cluster_p(base.right, patched.right, _clusters(base), seed),
        "mcnemar_p": mcnemar_p(base.right, patched.right),
        "gained": sum(b and not a for a, b in pairs),
        "lost": sum(a and not b for a, b in pairs),
    }


def skill_change(base: Results, patched: Results, seed: int = 0) -> Row:
    """What an edit did to a retention set."""
    change = comparison(base, patched, seed)
    del change["mcnemar_p"]
    return {"problems": len(base.problems), "base": base.accuracy, "patched": patched.accuracy, **change}


def per_template(base: Results, patched: Results) -> list[Row]:
    """Rows of template, problems, base and patched accuracy, sorted by template."""
    names = sorted({problem.template for problem in base.problems})
    return [
        {"template": name, "problems": len(before.problems), "base": before.accuracy, "patched": after.accuracy}
        for name in names
        for before, after in [(base.of_templates({name}), patched.of_templates({name}))]
    ]


def _clusters(results: Results) -> list[str]:
    return [problem.template for problem in results.problems]


@dataclass(frozen=True)
class Measured:
    """One model's greedy answers to a set of problems."""

    problems: tuple[Problem, ...]
    traces: tuple[Trace, ...]

    @property
    def results(self) -> Results:
        verdicts = tuple(trace.verdict for trace in self.traces)
        return Results(self.problems, verdicts, tuple(trace.cut_off for trace in self.traces))


def measure(
    problems: Sequence[Problem], grader: Grader, engine: Engine, max_new_tokens: int, progress: Progress | None = None
) -> Measured:
    """The greedy answers of the model as it stands."""
    return Measured(tuple(problems), tuple(greedy_traces(problems, grader, engine, max_new_tokens, progress)))


def figures(base: Mapping[int, Measured], patched: Mapping[int, Measured] | None, seed: int = 0) -> Row:
    """``base``, and with a second model ``patched``, ``gain`` and ``templates``; ``by_seed`` where there are several.

    Both are measured by task seed, on the same problems. The seeds' problems are pooled, each question once, so that
    intervals and the McNemar test see independent problems.
    """
    before = _pooled(base)
    row: Row = {"base": summary(before)}
    if patched is not None:
        after = _pooled(patched)
        row |= {
            "patched": summary(after),
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
    problems, traces = zip(*pooled.values(), strict=True)
    return Measured(problems, traces).results


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


def true_pivots(problem: Problem, grader: Grader) -> set[TruePivot]:
    """The pivots that were planted in a problem; empty where none were."""
    if not problem.solution:
        return set()
    right = grader.codec.encode_continuation(problem.solution)
    found: set[TruePivot] = set()
    for text in problem.planted:
        wrong = grader.codec.encode_continuation(text)
        at = first_difference(right, wrong)
        if at is not None:
            found.add((right[:at], right[at], wrong[at]))
    return found


def localisation(pivots: Sequence[Pivot], problems: Sequence[Problem], grader: Grader) -> Row | None:
    """Precision (of the pivots on problems with planted moves) and recall (of those problems); None without any.

    A pivot counts as found when its prefix and both its tokens are the planted ones.
    """
    truth = {problem.id: planted for problem in problems if (planted := true_pivots(problem, grader))}
    if not truth:
        return None
    judged = [pivot for pivot in pivots if pivot.problem in truth]
    hits = {p.problem for p in judged if (p.prefix, p.desired, p.undesired) in truth[p.problem]}
    same_place = {p.problem for p in judged if p.prefix in {prefix for prefix, _, _ in truth[p.problem]}}
    return {
        "planted": len(truth),
        "found": len(judged),
        "precision": len(hits) / len(judged) if judged else 0.0,
        "recall": len(hits) / len(truth),
        "precision_of_place": len(same_place) / len(judged) if judged else 0.0,
    }
