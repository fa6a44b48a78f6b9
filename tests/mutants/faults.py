"""The faults that `python -m tests.mutants` plants. Each names a module, a text in it, what stands there instead, the
tests that must notice, and why somebody would be misled by it."""

from __future__ import annotations

from typing import NamedTuple


class Fault(NamedTuple):
    name: str
    why: str
    module: str
    old: str
    new: str
    tests: tuple[str, ...]


REPORTED = ("tests/runs/test_reported.py",)

FAULTS = [
    Fault(
        "halves of a retention set overlap",
        "retention would be reported on problems that steps were chosen by",
        "cca.problems.task",
        "return list(problems[::2]), list(problems[1::2])",
        "return list(problems[::2]), list(problems[::2])",
        REPORTED,
    ),
    Fault(
        "retention reported on the guarding half",
        "steps that lose on it were refused, so it shows no loss",
        "cca.runs.evaluating",
        "halves(problems)[1] for name",
        "halves(problems)[0] for name",
        REPORTED,
    ),
    Fault(
        "validation on training problems",
        "the step would be chosen by what it was trained on",
        "cca.runs.validating",
        "answers(session, session.task.validation,",
        "answers(session, session.task.train,",
        REPORTED,
    ),
    Fault(
        "drift budget ignored",
        "a step may move everything else",
        "cca.runs.validating",
        "if not drift <= budget.drift:",
        "if False and not drift <= budget.drift:",
        REPORTED,
    ),
    Fault(
        "retention budget ignored",
        "a step may cost other skills",
        "cca.runs.validating",
        "if lost > max(1, math.floor(budget.points / 100 * len(guard))):",
        "if lost > len(guard):",
        REPORTED,
    ),
    Fault(
        "random controls held to the budget",
        "a control that may not move looks worse than it is",
        "cca.runs.evaluating",
        "    with _without_budget(session):\n",
        "    if True:\n",
        REPORTED,
    ),
    Fault(
        "a control matches at any accuracy",
        "the drift of the same gain would be that of no gain",
        "cca.runs.evaluating",
        'and record.validation.accuracy >= target["accuracy"]',
        "and record.validation.accuracy >= 0",
        REPORTED,
    ),
    Fault(
        "unseen templates are all templates",
        "what was trained on would count as generalisation",
        "cca.runs.evaluating",
        "{problem.template for problem in self.base.problems} - seen",
        "{problem.template for problem in self.base.problems}",
        REPORTED,
    ),
    Fault(
        "drift judged on what was fitted to",
        "text that circuits and steps were made to spare drifts least",
        "cca.runs.spared",
        "return guard[1::2] or guard",
        "return guard[::2]",
        REPORTED,
    ),
    Fault(
        "drift averaged over skills, not tokens",
        "one figure for all skills would depend on how they are cut into files",
        "cca.runs.evaluating",
        "sum(kl * count for kl, count in drifts.values()) / tokens if tokens else 0.0",
        "sum(kl for kl, count in drifts.values()) / len(drifts) if tokens else 0.0",
        REPORTED,
    ),
    Fault(
        "KL the other way round",
        "drift is the divergence of the patched from the base",
        "cca.evaluation.retention",
        "(base.exp() * (base - now)).sum()",
        "(now.exp() * (now - base)).sum()",
        ("tests/evaluation/test_retention.py", *REPORTED),
    ),
]
