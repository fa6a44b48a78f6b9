"""Lists made by a loop inside an expression, ``[5 * i for i in range(9)]``, within bounds on work and size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from cca.problems.functions import bulk, items
from cca.problems.quantities import LONGEST, ExpressionError

Closure = Callable[[Any], Any]
MOST_WORK = 200_000
"""Nodes that one comprehension may evaluate: some 20 milliseconds."""


def comprehension(
    source: Closure, name: str, tests: Sequence[Closure], element: Closure, price: int
) -> Callable[[Any], list[Any]]:
    """The closure of a comprehension over ``name``; ``price`` is the cost of its tests and element for one item.

    Calling it raises ExpressionError when it would work too long or its lists hold too much.
    """

    def made(values: Any) -> list[Any]:
        inner, result, found, held = dict(values), [], items(source(values)), 0
        if price * len(found) > MOST_WORK:
            raise ExpressionError(f"expected less work in a comprehension, got one over {len(found)} items")
        for value in found:
            inner[name] = value
            if not all(test(inner) for test in tests):
                continue
            result.append(element(inner))
            held += 1 if not isinstance(result[-1], list | tuple | str) else bulk(result[-1])
            if held > LONGEST:
                raise ExpressionError(f"expected at most {LONGEST} items in a comprehension, got more")
        return result

    return made
