"""How every judge of prose finds the answer: the one order of precedence, shared, so that `finished` is safe.

1. The first closed final statement ("The final answer is X.", "#### X" and a line end) that is readable.
2. Else, before the first new turn, the last readable statement of another kind ("the answer is X", "Answer: X",
   ``\\boxed{X}``, ``<answer>X</answer>``, a final statement whose sentence has not ended).
3. Else what the judge makes of the whole text (the last number in it, say).

Only 1 and a new turn settle the verdict: they are what `finished` looks for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from cca.problems.judges.statements import Statement, final_statements, lowered, stated_answers

_TAG = re.compile(r"<(/?)think(?:ing)?>|\[(/?)THINK\]", re.IGNORECASE)
_TURN = re.compile(
    r"""
    (?: (?:\n|\A) [ \t]{0,8} (?:[#>]{1,6}[ ]?)? [*_]{0,3}          # a line that opens with ...
        (?: Q | Question | (?<=\n\n) Problem | Human | User | Instruction )
        (?:[ ]\#?\d{1,4} | \d{1,4})? [*_ ]{0,3} :
    | (?<=\s) Q (?:[ ]?\d{1,4})? [ ]? :                   # mid-line, from tokenizers without newlines
    | (?<=[.!?][ ]) Question (?:[ ]\d{1,4})? [ ]? :
    | </s> | <eos> | <end_of_turn> | <\|(?:endoftext|end_of_text|im_end|im_start|eot_id|end|user)\|>
    | \[INST\]
    )""",
    re.VERBOSE,
)
_TURN_HINTS = ("Q", "Problem", "Human", "User", "Instruction", "<|", "</s>", "<eos>", "<end_of", "[INST]")


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of a completion that may hold the answer."""

    text: str
    """Closed by a line break when a new turn or a tag ended it, as what follows completes no sentence of its."""
    ended: bool
    """A new turn began after it: no continuation can add to it."""
    last: bool = True
    """No later part of this completion exists, as far as it was written."""
    thought: str = ""
    """A thought that was still open at the end of the completion."""


def parts(text: str, thinking: bool = False) -> Iterator[Part]:
    """The parts of a completion in order; a later one counts only when the earlier held no final statement.

    Closed thoughts are removed. A closing tag that nothing opened (the prompt's template did) starts a new part, as
    all before it may have been thought. ``thinking``: the completion begins inside a thought.
    """
    if not thinking and not ("hink" in text or "HINK" in text):
        yield _cut(text, after_thought=False)
        return
    kept, start, inside, opened = "", 0, thinking, 0
    after_thought = False
    for tag in _TAG.finditer(text):
        closing = bool(tag[1] or tag[2])
        if inside:
            if closing:
                inside, start = False, tag.end()
                if not kept.strip():  # nothing was said before the thought
                    kept, after_thought = "", True
        elif closing:
            part = _cut(kept + text[start : tag.start()], after_thought)
            yield part if part.ended else replace(part, text=part.text + "\n", last=False)
            if part.ended:
                return
            kept, start, after_thought = "", tag.end(), True
        else:
            # The thought leaves a line break behind: what follows it never completes a word begun before.
            kept, inside, opened = kept + text[start : tag.start()] + "\n", True, tag.end()
    if not inside:
        yield _cut(kept + text[start:], after_thought)
        return
    part = _cut(kept, after_thought)
    yield part if part.ended else replace(part, thought=text[opened:])


def _cut(text: str, after_thought: bool) -> Part:
    """Cut ``text`` at the first new turn. A turn before any word is the question restated, not a new one."""
    if not any(hint in text for hint in _TURN_HINTS):
        return Part(text, False)
    for turn in _TURN.finditer(text):
        before = text[: turn.start()]
        restated = turn[0].rstrip().endswith(":") and not before.strip()
        newline = turn[0].startswith("\n") or "\n" in before
        if not (restated and (after_thought or not newline)):
            return Part(before + "\n", True)
    return Part(text, False)


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
