"""How every judge of prose finds the answer: the one order of precedence, shared, so that `finished` is safe.

1. The first closed final statement ("The final answer is X.", "#### X" and a line end) that is readable.
2. Else, before the first new turn, the last readable statement of another kind ("the answer is X", "Answer: X",
   ``\\boxed{X}``, ``<answer>X</answer>``, a final statement whose sentence has not ended).
3. Else what the judge makes of the whole text (the last number in it, say).

Only 1 and a new turn settle the verdict: they are what `finished` looks for.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from cca.problems.judges.completions import parts
from cca.problems.judges.statements import Statement, final_statements, lowered, stated_answers

Answer = TypeVar("Answer")


class Reader(Generic[Answer]):
    """Base of the judges of prose.

    ``thinking``: the prompt left a thought open, so completions begin inside it.

    ``final``: a closed "The final answer is X." ends the completion. Switch it off for models that take such
    sentences back; then the last one counts, and only a new turn finishes a text.
    """

    def __init__(self, *, thinking: bool = False, final: bool = True) -> None:
        self.thinking = thinking
        self.final = final

    def read_statement(self, statement: Statement) -> Answer | None:
        raise NotImplementedError

    def read_whole(self, text: str) -> Answer | None:
        """The answer in a text that states none."""
        raise NotImplementedError

    def prepare(self, text: str) -> str:
        """A character-by-character clean-up before anything is looked for."""
        return text

    def read(self, text: str) -> Answer | None:
        """The answer that ``text`` gives, or None."""
        for part in parts(self.prepare(text), self.thinking):
            lower = lowered(part.text)
            answer = self._final(part.text, lower)
            if answer is None and part.last:
                body = f"{part.text}\n{part.thought}" if part.thought else part.text
                answer = self._stated(body)
                if answer is None and part.text:
                    answer = self.read_whole(part.text)
            if answer is not None:
                return answer
        return None

    def finished(self, text: str) -> bool:
        for part in parts(self.prepare(text), self.thinking):
            if part.ended or self._final(part.text, lowered(part.text)) is not None:
                return True
        return False

    def _final(self, text: str, lower: str) -> Answer | None:
        if self.final:
            for statement in final_statements(text, lower):
                answer = self.read_statement(statement)
                if answer is not None:
                    return answer
        return None

    def _stated(self, text: str) -> Answer | None:
        for statement in stated_answers(text, lowered(text)):
            answer = self.read_statement(statement)
            if answer is not None:
                return answer
        return None
