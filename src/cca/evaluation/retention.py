"""Retention sets divided: one half guards the budget, the other is reported.

Half of the guarding problems may be fitted to (by circuits, whitening and anchors), so that the rest of that half
judges steps on text that nothing was fitted to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cca.files import fingerprint
from cca.gradients.sampled_likelihood import Text
from cca.pivots.grader import Grader
from cca.problems.problem import Problem

MOST = 100
"""Most problems of one skill that anything is fitted to."""
RULE = "quarters by hash of the prompt"
"""How sets are divided. What an earlier rule made must not be taken for this one's (`cca.runs.folder.stage_inputs`)."""


def halves(problems: Sequence[Problem]) -> tuple[list[Problem], list[Problem]]:
    """The problems that guard the budget, and those that are reported."""
    parts = _quarters(problems)
    return [p for p in problems if parts[p.prompt] in (0, 2)], [
        p for p in problems if parts[p.prompt] in (1, 3)
    ]


def fitted(problems: Sequence[Problem]) -> list[Problem]:
    """The problems of one retention set whose text anything may be fitted to: half of those that guard."""
    parts = _quarters(problems)
    own = [problem for problem in problems if parts[problem.prompt] == 0]
    return own[:: max(1, -(-len(own) // MOST))]


def judging(problems: Sequence[Problem]) -> list[Problem]:
    """The problems of one retention set that judge the drift of steps: those that guard and are never fitted to."""
    parts = _quarters(problems)
    return [problem for problem in problems if parts[problem.prompt] == 2] or halves(problems)[0]


def retention_texts(sets: Mapping[str, Sequence[Problem]], grader: Grader) -> list[Text]:
    """The texts of other skills that a circuit, whitening or an anchor may be fitted to.

    A prompt that another set reports is left out.
    """
    reported = {problem.prompt for problems in sets.values() for problem in halves(problems)[1]}
    chosen = [problem for problems in sets.values() for problem in fitted(problems)]
    return solution_texts([problem for problem in chosen if problem.prompt not in reported], grader)


def _quarters(problems: Sequence[Problem]) -> dict[str, int]:
    """0 to 3 for every prompt, by the order of the prompts' hashes: problems with the same prompt stay together."""
    prompts = sorted(
        {problem.prompt for problem in problems}, key=lambda prompt: (fingerprint(prompt), prompt)
    )
    return {prompt: rank % 4 for rank, prompt in enumerate(prompts)}


def solution_texts(problems: Sequence[Problem], grader: Grader) -> list[Text]:
    """The worked solution of each problem, or its answer where there is none."""
    texts = [
        Text(
            grader.prompt_ids(problem),
            grader.codec.encode_continuation(f" {problem.solution or problem.answer}"),
        )
        for problem in problems
    ]
    return [text for text in texts if text.solution]
