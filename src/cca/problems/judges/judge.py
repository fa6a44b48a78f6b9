"""What a judge is: it reads the answer out of a completion and compares it with the gold answer.

The verdict is the training signal, so two rules bind every judge here. *Unreadable* is apart from *wrong*: no
answer was given, or none could be read. And `Judge.finished` is safe: once it is True for a text, the verdict
on that text is the verdict on every continuation of it, so decoding may stop there.

Each judge lives in `cca.problems.judges`; `make_judge` is the list of them by name.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from importlib import import_module
from inspect import signature
from typing import Any, Protocol

from cca.errors import CcaError


class Verdict(StrEnum):
    RIGHT = "right"
    WRONG = "wrong"
    UNREADABLE = "unreadable"


@dataclass(frozen=True)
class Judgement:
    verdict: Verdict
    answer: str | None
    """What was read from the completion, in the judge's own notation; None when it was unreadable."""


UNREADABLE = Judgement(Verdict.UNREADABLE, None)


def judgement(answer: str, right: bool) -> Judgement:
    return Judgement(Verdict.RIGHT if right else Verdict.WRONG, answer)


class Judge(Protocol):
    name: str

    def __call__(self, text: str, gold: str) -> Judgement:
        """Judge the completion ``text`` (without its prompt) against the gold answer."""
        ...

    def finished(self, text: str) -> bool:
        """True once no continuation of ``text`` can change the verdict. Cheap: called while decoding."""
        ...

    def check_gold(self, gold: str) -> None:
        """Raise CcaError when this judge cannot read ``gold``."""
        ...


JUDGES: dict[str, tuple[str, str]] = {
    "auto": ("auto", "AutoJudge"),
    "number": ("numbers", "NumberJudge"),
    "math": ("symbolic", "MathJudge"),
    "choice": ("choice", "ChoiceJudge"),
    "text": ("text", "TextJudge"),
    "exact": ("text", "ExactJudge"),
    "regex": ("text", "RegexJudge"),
    "tool-call": ("toolcall", "ToolCallJudge"),
    "code": ("code", "CodeJudge"),
}
"""Judge name -> (module in cca.problems.judges, class). Imported on use: some need optional packages."""


def make_judge(name: str, *, allow_code: bool = False, **options: Any) -> Judge:
    """The judge called ``name``, or the user's function ``package.module:function``.

    ``options`` are the keyword arguments of the judge's class. ``allow_code`` permits what runs code: a user's
    function, and the ``code`` judge, which runs what the model wrote.
    Raises CcaError for an unknown name or option, and for code that was not allowed.
    """
    if ":" in name:
        return _user_judge(name, allow_code, options)
    if name not in JUDGES:
        near = difflib.get_close_matches(name, JUDGES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise CcaError(f"judge: expected {', '.join(JUDGES)} or package.module:function, got {name!r}{hint}")
    if name == "code" and not allow_code:
        raise CcaError(
            "judge 'code' runs code that a model wrote: allow it explicitly (allow_code) or take another"
        )
    module, symbol = JUDGES[name]
    return _construct(name, getattr(import_module(f"cca.problems.judges.{module}"), symbol), options)


def join_digits(text: str) -> str:
    """Undo the spaces of a word-level tokenizer: ``4 2 .`` becomes ``42.``

    Joins digits that stand alone and are one space apart, and drops the space before punctuation. For texts
    decoded by such tokenizers only: elsewhere ``1 2 3`` is three numbers. Judges never call it.
    """
    text = re.sub(r"(?<![\w.])\d(?: \d)+(?!\w)", lambda match: match[0].replace(" ", ""), text)
    return re.sub(r"(?<=\S) (?=[.,;:!?%)\]}])", "", text)


def _construct(name: str, factory: Callable[..., Judge], options: dict[str, Any]) -> Judge:
    known = [parameter for parameter in signature(factory).parameters if parameter != "self"]
    for option in options:
        if option not in known:
            expected = ", ".join(known) or "none"
            raise CcaError(f"judge {name!r}: unknown option {option!r}; its options: {expected}")
    return factory(**options)


def _user_judge(name: str, allow_code: bool, options: dict[str, Any]) -> Judge:
    if not allow_code:
        raise CcaError(
            f"judge {name!r} is a function of yours: allow it explicitly (allow_code) to import and run it"
        )
    from cca.problems.judges.user import FunctionJudge

    return _construct(name, lambda: FunctionJudge(name), options)
