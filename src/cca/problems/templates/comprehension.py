"""Lists made by loops inside an expression, ``[5 * i for i in range(9) if i % 2]``, within bounds on work and size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cca.problems.templates.exact_numbers import LONGEST, ExpressionError, shown
from cca.problems.templates.functions import items
from cca.problems.templates.operators import bulk

Closure = Callable[[Any], Any]
MOST_WORK = 200_000
"""Nodes that one comprehension may evaluate: some 20 milliseconds."""


@dataclass(frozen=True)
class Loop:
    """``for names in source if tests``; several ``names`` take an item apart."""

    names: tuple[str, ...]
    source: Closure
    tests: Sequence[Closure]


def comprehension(loops: Sequence[Loop], element: Closure, price: int) -> Callable[[Any], list[Any]]:
    """The closure of a comprehension; ``price`` is the cost of one turn of its loops.

    Calling it raises ExpressionError when it would work too long or its lists hold too much.
    """

    def made(values: Any) -> list[Any]:
        inner, result, held, work = dict(values), [], 0, 0

        def turn(depth: int) -> None:
            nonlocal held, work
            if depth == len(loops):
                result.append(element(inner))
                held += 1 if not isinstance(result[-1], list | tuple | str | dict) else bulk(result[-1])
                if held > LONGEST:
                    raise ExpressionError(f"expected at most {LONGEST} items in a comprehension, got more")
                return
            loop = loops[depth]
            for item in items(loop.source(inner)):
                work += price
                if work > MOST_WORK:
                    raise ExpressionError(
                        "expected less work in a comprehension, got one that takes too long"
                    )
                _assign(loop.names, item, inner)
                if all(test(inner) for test in loop.tests):
                    turn(depth + 1)

        turn(0)
        return result

    return made


def _assign(names: tuple[str, ...], item: Any, values: dict[str, Any]) -> None:
    if len(names) == 1:
        values[names[0]] = item
        return
    if not isinstance(item, list | tuple) or len(item) != len(names):
        raise ExpressionError(f"expected items of {len(names)} parts in a comprehension, got {shown(item)}")
    values.update(zip(names, item, strict=True))
