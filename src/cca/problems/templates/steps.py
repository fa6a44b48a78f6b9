"""The steps of a search: which variables conditions tie together, and the order in which they are given values."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from cca.problems.templates.draws import Draw
from cca.problems.templates.exact_numbers import ExpressionError, Worded
from cca.problems.templates.expressions import Expression
from cca.problems.templates.word_lists import PEOPLE

FAILURES = (ExpressionError, ArithmeticError, TypeError, ValueError, LookupError)
_UNKNOWN_SIZE = 1_000
"""Assumed number of items that depend on other variables."""
_STRICT = 20
"""Factor by which a divisor or an equation excludes more than a comparison."""


class Step:
    """Gives the targets of one draw their values; ``tests`` can be decided then.

    ``solved`` gives the value when an equation has it alone on one side.
    """

    def __init__(self, draw: Draw, targets: set[str]) -> None:
        self.draw = draw
        self.items = None if draw.needs & targets else draw.items({})
        self.size = _UNKNOWN_SIZE if self.items is None else len(self.items)
        self.tests: list[Expression] = []
        self.solved: Expression | None = None

    @property
    def people(self) -> bool:
        items = self.items or ()
        return self.draw.kind in ("each", "distinct") and len(items) > 20 and items[0] in PEOPLE

    @property
    def solvable(self) -> bool:
        """True when a number tells which item to choose."""
        if self.draw.kind != "each" or self.items is None:
            return False
        return isinstance(self.items, range) or len(set(self.items)) == len(self.items)

    @cached_property
    def cost(self) -> int:
        """Work of one guess without its tests."""
        return 8 + (self.draw.cost if self.items is None else 0) + (self.solved.cost if self.solved else 0)

    @cached_property
    def index(self) -> dict[Any, Any]:
        return {item: item for item in self.items or ()}

    def choices(self, values: Mapping[str, Any]) -> Sequence[Any]:
        """The items that may be chosen after ``values``; none when they cannot be evaluated."""
        try:
            if self.solved is None:
                return self.draw.items(values) if self.items is None else self.items
            value = self.solved.closure(values)
            value = value.value if isinstance(value, Worded) else value
            if isinstance(self.items, range):  # "in" goes through a range for what is no int
                return (value,) if isinstance(value, int) and value in self.items else ()
            return (self.index[value],) if value in self.index else ()
        except FAILURES:
            return ()


def tied(draws: Sequence[Draw], conditions: Iterable[Expression]) -> list[list[Draw]]:
    """The draws in groups: two share a group when a condition, or the items of one, read names of both."""
    owner = {target: index for index, draw in enumerate(draws) for target in draw.targets}
    group = list(range(len(draws)))
    needs = [draw.needs | {draw.targets[0]} for draw in draws]
    for names in [condition.names for condition in conditions] + needs:
        merged = {group[owner[name]] for name in names if name in owner}
        group = [min(merged) if label in merged else label for label in group]
    return [
        [draw for draw, own in zip(draws, group, strict=True) if own == label] for label in sorted(set(group))
    ]


def split(condition: Expression) -> list[Expression]:
    """The parts of ``a < b < c and d == e``: each can be decided as soon as its own names have values."""
    tree, parts = condition.tree, []
    for part in tree.values if isinstance(tree, ast.BoolOp) and isinstance(tree.op, ast.And) else [tree]:
        if isinstance(part, ast.Compare):
            sides = [part.left, *part.comparators]
            parts += [
                ast.Compare(sides[place], [op], [sides[place + 1]]) for place, op in enumerate(part.ops)
            ]
        else:
            parts.append(part)
    return [Expression(condition.text, part) for part in parts] if len(parts) > 1 else [condition]


def ordered(steps: Sequence[Step], conditions: Sequence[Expression]) -> list[Step]:
    """Steps in a good order: again and again the condition with the fewest combinations left is made decidable."""
    waiting, undecided = list(steps), list(conditions)
    placed: list[Step] = []
    known: set[str] = set()
    while waiting:
        plans = [_plan(one, _needed(one.names - known, waiting)) for one in undecided]
        default = (0.0, _needed(frozenset(waiting[0].draw.targets), waiting), None)
        _, chosen, solved = min(
            (plan for plan in plans if plan[1]), key=lambda plan: plan[0], default=default
        )
        chosen[-1].solved = solved
        for step in chosen:
            waiting.remove(step)
            placed.append(step)
            known.update(step.draw.targets)
            step.tests = sorted((one for one in undecided if one.names <= known), key=lambda one: one.cost)
            undecided = [one for one in undecided if not one.names <= known]
    return placed


def _plan(condition: Expression, steps: list[Step]) -> tuple[float, list[Step], Expression | None]:
    """(combinations, the steps that make ``condition`` decidable, what the last of them is solved by or None)."""
    solved = None
    for name, side in _sides(condition):
        step = next((one for one in steps if one.draw.targets == (name,)), None)
        needed = name in side.names or any(name in one.draw.needs for one in steps)
        if step is not None and step.solvable and not needed:
            steps, solved = [*(one for one in steps if one is not step), step], side
            break
    sizes = [step.size for step in (steps if solved is None else steps[:-1])]
    return math.prod(sizes) / (_STRICT if _strict(condition.tree) else 1), steps, solved


def _sides(condition: Expression) -> list[tuple[str, Expression]]:
    """(name, the other side) where a plain name is one side of a single ``==``."""
    tree = condition.tree
    if not isinstance(tree, ast.Compare) or len(tree.ops) != 1 or not isinstance(tree.ops[0], ast.Eq):
        return []
    sides = (tree.left, tree.comparators[0])
    return [
        (name.id, Expression(condition.text, side))
        for name, side in (sides, sides[::-1])
        if isinstance(name, ast.Name)
    ]


def _needed(names: frozenset[str], waiting: Sequence[Step]) -> list[Step]:
    """The waiting steps for ``names`` and for what their items depend on, small ones first."""
    missing, found = set(names), []
    while missing:
        name = min(missing)
        missing.discard(name)
        step = next((step for step in waiting if name in step.draw.targets and step not in found), None)
        if step is not None:
            found.append(step)
            missing |= step.draw.needs
    found.sort(key=lambda step: step.size)
    result: list[Step] = []
    while found:
        targets = {target for step in found for target in step.draw.targets}
        ready = (step for step in found if not step.draw.needs & targets - set(step.draw.targets))
        result.append(next(ready, found[0]))
        found.remove(result[-1])
    return result


def _strict(tree: ast.expr) -> bool:
    """True for divisors and equations, which few values meet."""
    if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name):
        return tree.func.id in ("is_int", "divides")
    return isinstance(tree, ast.Compare) and isinstance(tree.ops[0], ast.Eq)
