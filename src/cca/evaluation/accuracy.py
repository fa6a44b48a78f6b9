"""Exact-match accuracy of greedy answers, per template, and two models compared on the same problems."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cca.evaluation.significance import accuracy_interval, cluster_p, mcnemar_p, paired_gain_interval
from cca.problems.judges.judge import Verdict
from cca.problems.problem import Problem


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


def summary(results: Results) -> dict[str, Any]:
    """Accuracy with its interval over templates, and the shares of answers unreadable and cut off."""
    interval = accuracy_interval(results.right, _clusters(results))
    return {
        "accuracy": results.accuracy,
        "interval": list(interval),
        "unreadable": results.unreadable,
        "cut_off": results.share_cut_off,
        "problems": len(results.problems),
    }


def comparison(base: Results, patched: Results, seed: int = 0) -> dict[str, Any]:
    """Gain in percentage points with its 95 % interval and p-value over templates, and the exact McNemar test."""
    low, high = paired_gain_interval(base.right, patched.right, _clusters(base))
    return {
        "points": 100 * (patched.accuracy - base.accuracy),
        "interval": [100 * low, 100 * high],
        "p_value": cluster_p(base.right, patched.right, _clusters(base), seed),
        "mcnemar_p": mcnemar_p(base.right, patched.right),
        "gained": sum(b and not a for a, b in zip(base.right, patched.right, strict=True)),
        "lost": sum(a and not b for a, b in zip(base.right, patched.right, strict=True)),
    }


def per_template(base: Results, patched: Results) -> list[dict[str, Any]]:
    """Rows of template, problems, base and patched accuracy, sorted by template."""
    rows = []
    for template in sorted({problem.template for problem in base.problems}):
        before, after = base.of_templates({template}), patched.of_templates({template})
        rows.append(
            {
                "template": template,
                "problems": len(before.problems),
                "base": before.accuracy,
                "patched": after.accuracy,
            }
        )
    return rows


def _clusters(results: Results) -> list[str]:
    return [problem.template for problem in results.problems]
