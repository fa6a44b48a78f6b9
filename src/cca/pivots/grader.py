"""The Grader: what one task means to one tokenizer. It encodes prompts and reads completions through the judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cca.models.loading import Codec
from cca.problems.judges.judge import Judge, Judgement
from cca.problems.problem import Problem


@dataclass(frozen=True)
class Grader:
    codec: Codec
    judge: Judge

    def prompt_ids(self, problem: Problem) -> tuple[int, ...]:
        return self.codec.encode(problem.prompt, special_tokens=not problem.chat)

    def judgement(self, problem: Problem, token_ids: Sequence[int]) -> Judgement:
        return self.judge(self.codec.decode(token_ids), problem.answer)

    def finished(self, token_ids: Sequence[int]) -> bool:
        """The stop rule for engines: whether the verdict on a completion cannot change any more."""
        return self.judge.finished(self.codec.decode(token_ids))
