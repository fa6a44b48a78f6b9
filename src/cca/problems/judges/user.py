"""A user's judging function, imported by name. It runs in this process, so it must be allowed explicitly."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from cca.errors import CcaError
from cca.problems.judges.judge import UNREADABLE, Judgement, Verdict, judgement


class FunctionJudge:
    """``package.module:function`` with ``function(text, gold) -> bool | Verdict | Judgement | None``.

    None is unreadable. The function may carry attributes ``finished`` and ``check_gold``, as in `Judge`.
    ``function`` is given by who has it in hand already.
    """

    def __init__(self, name: str, function: Callable[[str, str], Any] | None = None) -> None:
        self.name = name
        self.function = imported("judge", name) if function is None else function

    def __call__(self, text: str, gold: str) -> Judgement:
        result = self.function(text, gold)
        if isinstance(result, Judgement):
            return result
        if result is None or result is Verdict.UNREADABLE:
            return UNREADABLE
        if isinstance(result, Verdict):
            return judgement(text.strip(), result is Verdict.RIGHT)
        if isinstance(result, bool):
            return judgement(text.strip(), result)
        raise CcaError(
            f"judge {self.name!r}: expected a bool, a Verdict, a Judgement or None, got {result!r}"
        )

    def finished(self, text: str) -> bool:
        finished = getattr(self.function, "finished", None)
        return bool(finished(text)) if finished is not None else False

    def check_gold(self, gold: str) -> None:
        check = getattr(self.function, "check_gold", None)
        if check is not None:
            check(gold)


def imported(what: str, name: str) -> Callable[..., Any]:
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
