"""A judge of prose finds the answer by the part of a completion that is the answer's, and one order of precedence.

Thoughts are no answer, and nothing after a new turn is: few-shot models run on into a question of their own invention,
thinking models reason between marks. Then:

1. The first closed final statement ("The final answer is X.", "#### X" and a line end) that is readable.
2. Else, before the first new turn, the last statement of another kind ("the answer is X", "Answer: X",
   ``\\boxed{X}``, ``<answer>X</answer>``, a final statement whose sentence has not ended).
3. Else what the judge makes of the whole text (the last number in it, say).

A statement that could mean several answers is `UNCLEAR`: the completion is unreadable, and no weaker rule is tried. A
completion that was cut off at its limit has only closed statements. Every rule goes from left to right and only 1 and
a new turn settle the verdict, so what was decided for a text stays decided for its continuations (`finished`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any, Generic, TypeVar

from cca.problems.judges.judge import UNREADABLE, Judgement, judgement
from cca.problems.judges.statements import Statement, final_statements, stated_answers

_THOUGHT = r"(?:[a-z]{1,12}[:_])?(?:think|thinking|thoughts?|reasoning)"
_TAG = re.compile(
    rf"""
    (?=[<\[\u25c1]) (?:                                     # every mark begins so: most texts are passed over at once
    (?P<close> </{_THOUGHT}> | \[/THINK\] | \u25c1/think\u25b7 | <\|/(?:think|thinking)\|> | <\|end_of_{_THOUGHT}\|>
        | <\|{_THOUGHT}_end\|> | <\|end_thinking\|> | <channel\|> | <\|inner_suffix\|> | \[BEGIN[ ]FINAL[ ]RESPONSE\] )
  | (?P<open> <{_THOUGHT}> | \[THINK\] | \u25c1think\u25b7 | <\|(?:think|thinking)\|>
        | <\|(?:begin|start)_of_{_THOUGHT}\|>
        | <\|{_THOUGHT}_(?:start|begin)\|> | <\|start_thinking\|> | <\|channel>thought | <\|inner_prefix\|> )
  | (?P<analysis> <\|channel\|>\s{{0,3}}analysis[^<\n]{{0,60}}<\|message\|> )
  | (?P<message_end> <\|end\|> )
  | (?P<answer> (?:<\|start\|>assistant[^<\n]{{0,60}})?<\|channel\|>\s{{0,3}}final[^<\n]{{0,60}}<\|message\|>
        | <\|(?:begin|end)_of_solution\|> | <\|(?:start|end)_response\|> | \[END[ ]FINAL[ ]RESPONSE\] )
  | (?P<begin> <\|im_start\|>assistant\n? | <start_of_turn>model\n? | <\|turn>model\n? | <\|assistant\|>
        | <\|start\|>assistant | <\|start_header_id\|>assistant<\|end_header_id\|> | <\uff5cassistant\uff5c> )
    )""",
    re.VERBOSE | re.IGNORECASE,
)
"""Marks around thoughts and answers. ``analysis`` and ``message_end`` are harmony's (gpt-oss); ``begin`` opens the
model's own turn."""
_SPECIAL_TURN = r"""
    </s> | <eos> | <(?:start|end)_of_turn> | <turn\|> | <\|turn> | \[/?INST\] | \[\|(?:endofturn|user|system)\|\]
    | <seed:eos> | <end_of_utterance> | <\uff5c(?:end\u2581of\u2581sentence|user)\uff5c>
    | <\|(?:endoftext|end_of_text|im_end|im_start|eot_id|eom_id|end|user|system|observation|return|call|eot|eos
        |endofprompt|start|start_header_id|header_start|start_of_role|end_of_role|(?:start|end)_of_turn_token|im_user)\|>
"""
_TURN = re.compile(
    rf"""
    (?: (?=[\nQ<\[]) | \A )                                # every turn begins so, or at the beginning
    (?: (?:\n|\A) [ \t]{{0,8}} (?:[#>]{{1,6}}[ ]?)? [*_]{{0,3}}          # a line that opens with ...
        (?: Q | Question | (?<=\n\n) Problem | Human | User | Instruction )
        (?:[ ]\#?\d{{1,4}} | \d{{1,4}})? [*_ ]{{0,3}} :
    | (?<=\s) Q (?:[ ]?\d{{1,4}})? [ ]? :                   # mid-line, from tokenizers without newlines
    | (?<=[.!?][ ]) Question (?:[ ]\d{{1,4}})? [ ]? :
    | (?i:{_SPECIAL_TURN})
    )""",
    re.VERBOSE,
)
_BEGINS = re.compile(
    r"<\|?(?:im_start|start|start_of_turn|turn|start_header_id|header_start|start_of_role|endofprompt)\|?>"
)
_TURN_HINTS = ("Q", "Problem", "Human", "User", "Instruction", "<", "[")
_TURN_MARK = re.compile(_SPECIAL_TURN, re.VERBOSE | re.IGNORECASE)
_MARK_WORD = re.compile(
    r"[<\[\u25c1].*(?:think|thought|reason|channel|message|inner_|solution|response|tool|func|call|args|header|role|assistant"
    r"|constrain|turn|start|python_tag)",
    re.IGNORECASE,
)


def ends_turn(token: str) -> bool:
    """True for a special token that ends a turn or a text, or begins another speaker's turn."""
    return _TURN_MARK.fullmatch(token) is not None


def is_mark(token: str) -> bool:
    """True for a special token that judges look for: it parts turns, thoughts, tool calls and answers."""
    return ends_turn(token) or _MARK_WORD.match(token) is not None


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of a completion that may hold the answer."""

    text: str
    """Closed by a line break when a new turn or a tag ended it, as what follows completes no sentence of its."""
    ended: bool
    """A new turn began after it: no continuation can add to it."""
    last: bool = True
    """No later part of this completion exists, as far as it was written."""


def parts(text: str, thinking: bool = False) -> Iterator[Part]:
    """The parts of a completion in order; a later one counts only when the earlier held no final statement.

    Closed thoughts are removed. A closing mark that nothing opened (the prompt's template did) starts a new part, as
    all before it may have been thought. ``thinking``: the completion begins inside a thought.
    """
    kept, start, inside, analysis = "", 0, thinking, False
    after_thought = False
    for tag in _TAG.finditer(text):
        kind, said = tag.lastgroup, kept + text[start : tag.start()]
        if inside:
            if kind in ("close", "answer") or (kind == "message_end" and analysis):
                inside, start = False, tag.end()
                if not kept.strip():  # nothing was said before the thought
                    kept, after_thought = "", True
        elif kind == "close":
            part = _cut(said, after_thought)
            yield part if part.ended else Part(part.text + "\n", False, last=False)
            if part.ended:
                return
            kept, start, after_thought = "", tag.end(), True
        elif kind in ("open", "analysis"):
            # The thought leaves a line break behind: what follows it never completes a word begun before.
            kept, inside, analysis = said + "\n", True, kind == "analysis"
        elif kind in ("answer", "begin"):
            if not said.strip():
                kept, start = "", tag.end()
            elif kind == "answer" and not tag[0].startswith("<|start|>"):  # which is a turn of its own
                kept, start = f"{said}\n", tag.end()
    yield _cut(kept if inside else kept + text[start:], after_thought)


def open_thought(text: str) -> bool:
    """True when the last thought that ``text`` opens is still open."""
    kinds = [tag.lastgroup for tag in _TAG.finditer(text)]
    opened = max((place for place, kind in enumerate(kinds) if kind in ("open", "analysis")), default=None)
    if opened is None:
        return False
    ends = ("close", "answer", "message_end") if kinds[opened] == "analysis" else ("close", "answer")
    return not any(kind in ends for kind in kinds[opened:])


def _cut(text: str, after_thought: bool) -> Part:
    """Cut ``text`` at the first new turn. A turn before any word is the question restated, not a new one."""
    if not any(hint in text for hint in _TURN_HINTS):
        return Part(text, False)
    for turn in _TURN.finditer(text):
        before = text[: turn.start()]
        if not before.strip() and _BEGINS.match(turn[0]):  # the model writes the head of its own turn
            continue
        restated = turn[0].rstrip().endswith(":") and not before.strip()
        newline = turn[0].startswith("\n") or "\n" in before
        if not (restated and (after_thought or not newline)):
            return Part(before + "\n", True)
    return Part(text, False)


Answer = TypeVar("Answer")


class Unclear(Enum):
    """A statement that could mean several answers."""

    UNCLEAR = "unclear"


UNCLEAR = Unclear.UNCLEAR


class Reader(Generic[Answer]):
    """Base of the judges of prose.

    ``thinking``: the prompt left a thought open, so completions begin inside it.

    ``final``: a closed "The final answer is X." ends the completion. Switch it off for models that take such
    sentences back; then the last one counts, and only a new turn finishes a text.
    """

    def __init__(self, *, thinking: bool = False, final: bool = True) -> None:
        self.thinking = thinking
        self.final = final

    def __call__(self, text: str, gold: str, *, cut_off: bool = False) -> Judgement:
        wanted = self.read_gold(gold)
        answer = self.read(text, cut_off)
        return UNREADABLE if answer is None else self.compare(answer, wanted)

    def check_gold(self, gold: str) -> None:
        self.read_gold(gold)

    def read_gold(self, gold: str) -> Any:
        """The gold answer as ``compare`` takes it. Raises CcaError for one that cannot be read."""
        raise NotImplementedError

    def compare(self, answer: Answer, wanted: Any) -> Judgement:
        return judgement(str(answer), answer == wanted)

    def read_statement(self, statement: Statement) -> Answer | Unclear | None:
        """The answer that a statement gives; None when it gives none."""
        raise NotImplementedError

    def read_whole(self, text: str, cut_off: bool = False) -> Answer | Unclear | None:
        """The answer in a text that states none; ``cut_off``: its end is missing."""
        raise NotImplementedError

    def prepare(self, text: str) -> str:
        """Clean up ``text`` character by character, before anything is looked for."""
        return text

    def read(self, text: str, cut_off: bool = False) -> Answer | None:
        """The answer that ``text`` gives, or None; ``cut_off``: it stopped at its token limit."""
        for part in parts(self.prepare(text), self.thinking):
            answer = self._final(part.text)
            if answer is None and part.last:
                open_end = cut_off and not part.ended
                answer = self._stated(part.text, open_end)
                if answer is None and part.text:
                    answer = self.read_whole(part.text, open_end)
            if answer is not None:
                return None if isinstance(answer, Unclear) else answer
        return None

    def finished(self, text: str) -> bool:
        for part in parts(self.prepare(text), self.thinking):
            if part.ended or self._final(part.text) is not None:
                return True
        return False

    def _final(self, text: str) -> Answer | None:
        """The first final statement that is readable. Unclear ones are passed over here: one may follow that is not."""
        if self.final:
            for statement in final_statements(text):
                answer = self.read_statement(statement)
                if answer is not None and not isinstance(answer, Unclear):
                    return answer
        return None

    def _stated(self, text: str, closed: bool) -> Answer | Unclear | None:
        for statement in stated_answers(text, closed):
            answer = self.read_statement(statement)
            if answer is not None:
                return answer
        return None


class WholeReader:
    """Base of the judges of the whole completion: only a new turn finishes it.

    ``thinking``: the prompt left a thought open, so completions begin inside it.
    """

    def __init__(self, *, thinking: bool = False) -> None:
        self.thinking = thinking

    def finished(self, text: str) -> bool:
        return self._last(text).ended

    def answer(self, text: str, cut_off: bool) -> tuple[str, bool]:
        """The completion without thoughts and new turns, stripped, and True where its end is missing."""
        part = self._last(text)
        return part.text.strip(), cut_off and not part.ended

    def _last(self, text: str) -> Part:
        *_, last = parts(text, self.thinking)
        return last
