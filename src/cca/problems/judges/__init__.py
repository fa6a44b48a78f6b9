"""The judges by name, and a user's own judging function."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

from cca.errors import CcaError, suggestion
from cca.problems.judges.judge import UNREADABLE, Judge, Judgement, Verdict, judgement
from cca.section import load_entry

JUDGES: dict[str, str | Callable[..., Judge]] = {
    "auto": "cca.problems.judges.numbers:AutoJudge",
    "number": "cca.problems.judges.numbers:NumberJudge",
    "math": "cca.problems.judges.maths:MathJudge",
    "choice": "cca.problems.judges.text:ChoiceJudge",
    "text": "cca.problems.judges.text:TextJudge",
    "exact": "cca.problems.judges.text:ExactJudge",
    "regex": "cca.problems.judges.text:RegexJudge",
    "tool-call": "cca.problems.judges.tool_calls:ToolCallJudge",
    "code": "cca.problems.judges.code:CodeJudge",
}
"""Name -> what makes a `Judge` from its options, or the ``module:name`` of that, which is loaded on first use."""


def make_judge(name: str, *, allow_code: bool = False, **options: Any) -> Judge:
    """The judge called ``name``, or the user's function ``package.module:function``.

    ``options`` are the keyword arguments of the judge's class. ``allow_code`` permits what runs code: a user's
    function, and the ``code`` judge, which runs what the model wrote.
    Raises CcaError for an unknown name or option, and for code that was not allowed.
    """
    if ":" in name:
        if not allow_code:
            raise CcaError(
                f"judge {name!r} is a function of yours: allow it explicitly (allow_code) to import and run it"
            )
        return _construct(name, lambda: FunctionJudge(name), options)
    if name not in JUDGES:
        known = f"{', '.join(JUDGES)} or package.module:function"
        raise CcaError(f"judge: expected {known}, got {name!r}{suggestion(name, JUDGES)}")
    if name == "code" and not allow_code:
        raise CcaError("judge 'code' runs code that a model wrote: allow it explicitly (allow_code) or take another")
    return _construct(name, load_entry(JUDGES[name]), options)


def _construct(name: str, factory: Callable[..., Judge], options: dict[str, Any]) -> Judge:
    known = list(signature(factory).parameters)
    for option in options:
        if option not in known:
            expected = ", ".join(known) or "none"
            raise CcaError(f"judge {name!r}: unknown option {option!r}; its options: {expected}")
    return factory(**options)


class FunctionJudge:
    """``package.module:function`` with ``function(text, gold) -> bool | Verdict | Judgement | None``.

    None is unreadable. The function may carry attributes ``finished`` and ``check_gold``, as in `Judge`.
    ``function`` spares the import.
    """

    def __init__(self, name: str, function: Callable[[str, str], Any] | None = None) -> None:
        self.name = name
        self.function = import_function("judge", name) if function is None else function
        try:
            self.takes_cut_off = "cut_off" in signature(self.function).parameters
        except (TypeError, ValueError):  # a builtin that does not say what it takes
            self.takes_cut_off = False

    def __call__(self, text: str, gold: str, *, cut_off: bool = False) -> Judgement:
        """A function that takes ``cut_off`` is given it; any other judges the text as it stands."""
        options = {"cut_off": True} if cut_off and self.takes_cut_off else {}
        result = self.function(text, gold, **options)
        if isinstance(result, Judgement):
            return result
        if result is None or result is Verdict.UNREADABLE:
            return UNREADABLE
        if isinstance(result, Verdict | bool):
            return judgement(text.strip(), result in (Verdict.RIGHT, True))
        raise CcaError(f"judge {self.name!r}: expected a bool, a Verdict, a Judgement or None, got {result!r}")

    def finished(self, text: str) -> bool:
        finished = getattr(self.function, "finished", None)
        return bool(finished(text)) if finished is not None else False

    def check_gold(self, gold: str) -> None:
        check = getattr(self.function, "check_gold", None)
        if check is not None:
            check(gold)


def import_function(what: str, name: str) -> Callable[..., Any]:
    """The function ``package.module:function``, looked for in the working directory too."""
    module, _, symbol = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        function: Any = getattr(import_module(module), symbol)
    except (ImportError, ValueError, AttributeError) as error:
        raise CcaError(
            f"{what}: expected an importable function package.module:function, got {name!r} ({error})"
        ) from error
    if not callable(function):
        raise CcaError(f"{what}: expected {name!r} to be a function, got {type(function).__name__}")
    return function
