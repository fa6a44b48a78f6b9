"""The Grader: what one task means to one tokenizer. It encodes prompts and reads completions through the judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cca.problems.judges.judge import Judge, Judgement
from cca.problems.problem import Problem

if TYPE_CHECKING:
    from cca.models.loading import Codec

DEFAULT_NEW_TOKENS = 512
"""Longest completion where no problem has a worked solution."""


@dataclass(frozen=True)
class Grader:
    codec: Codec
    judge: Judge

    def prompt_ids(self, problem: Problem) -> tuple[int, ...]:
        return self.codec.encode(problem.prompt, special_tokens=not problem.chat)

    def judgement(self, problem: Problem, token_ids: Sequence[int], *, cut_off: bool = False) -> Judgement:
        """The verdict on a completion. ``cut_off``: it reached its token limit, so only a closed answer counts."""
        return self.judge(self.codec.decode(token_ids), problem.answer, cut_off=cut_off)

    def finished(self, token_ids: Sequence[int]) -> bool:
        """The stop rule for engines: True when the verdict on a completion cannot change any more."""
        return self.judge.finished(self.codec.decode(token_ids))


def longest_completion(problems: Sequence[Problem], codec: Codec, context: int) -> int:
    """Tokens that a completion may have: twice the longest worked solution of ``problems``, and 8 more.

    `DEFAULT_NEW_TOKENS` where no problem has a worked solution; never more than ``context`` tokens with a prompt.
    """
    lengths = [len(codec.encode_continuation(each.solution)) for each in problems if each.solution]
    return min(context - 1, 2 * max(lengths) + 8 if lengths else DEFAULT_NEW_TOKENS)
