"""The order in which a group of tied variables is given values: cheap conditions first, reckoned variables last."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, TypeGuard

from cca.problems.templates.draws import Draw
from cca.problems.templates.exact_numbers import Worded
from cca.problems.templates.expressions import Expression

UNKNOWN_SIZE = 1_000
"""Assumed size of a domain that depends on other variables."""

STRICT = 20
"""How much more a divisor or an equation leaves out than a comparison."""


@dataclass
class Step:
    """Gives one target (or all targets of a run or row) a value; ``tests`` can be decided then.

    ``domain`` is None when it depends on other variables; ``excluded`` targets of the same draw took their items
    before; ``reckoned`` gives the value when the variable stands alone on one side of an ``==``.
    """

    targets: tuple[str, ...]
    draw: Draw
    domain: Sequence[Any] | None
    excluded: tuple[str, ...] = ()
    tests: list[Expression] = field(default_factory=list)
    reckoned: Expression | None = None
    index: dict[Any, list[Any]] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return UNKNOWN_SIZE if self.domain is None else len(self.domain)

    def items(self, values: Mapping[str, Any]) -> Sequence[Any]:
        domain = self.draw.domain(values) if self.domain is None else self.domain
        if self.reckoned is not None:
            wanted = self.reckoned.closure(values)
            if isinstance(wanted, Worded):
                wanted = wanted.value
            if isinstance(domain, range):
                return (wanted,) if wanted in domain else ()
            if isinstance(wanted, int | Fraction):
                return self.index.get(wanted, ())
        if self.excluded:
            taken = [values[name] for name in self.excluded]
            return [item for item in domain if item not in taken]
        return domain

    def assign(self, item: Any, values: dict[str, Any]) -> None:
        if self.draw.kind in ("each", "distinct"):
            values[self.targets[0]] = item
        else:
            values.update(zip(self.targets, item, strict=True))


def tied(draws: Sequence[Draw], conditions: Iterable[Expression]) -> list[list[Draw]]:
    """The draws in groups: two share a group when a condition, or the domain of one, reads names of both."""
    owner = {target: index for index, draw in enumerate(draws) for target in draw.targets}
    group = list(range(len(draws)))

    def leader(index: int) -> int:
        while group[index] != index:
            index = group[index]
        return index

    needs = [draw.needs | {draw.targets[0]} for draw in draws]
    for names in [condition.names for condition in conditions] + needs:
        members = sorted({leader(owner[name]) for name in names if name in owner})
        for member in members[1:]:
            group[member] = members[0]
    found: dict[int, list[Draw]] = {}
    for index, draw in enumerate(draws):
        found.setdefault(leader(index), []).append(draw)
    return list(found.values())


def split(condition: Expression) -> list[Expression]:
    """The parts of ``a < b < c and d == e``: each can be decided as soon as its own names have values."""
    parts: list[ast.expr] = []
    for tree in condition.tree.values if _is_and(condition.tree) else [condition.tree]:
        if isinstance(tree, ast.Compare):
            sides = [tree.left, *tree.comparators]
            parts += [
                ast.Compare(sides[place], [op], [sides[place + 1]]) for place, op in enumerate(tree.ops)
            ]
        else:
            parts.append(tree)
    return [Expression(condition.text, part) for part in parts] if len(parts) > 1 else [condition]


def _is_and(tree: ast.expr) -> TypeGuard[ast.BoolOp]:
    return isinstance(tree, ast.BoolOp) and isinstance(tree.op, ast.And)


def ordered(draws: Sequence[Draw], conditions: Sequence[Expression]) -> list[Step]:
    """Steps in a good order: again and again the condition with the fewest combinations left is made decidable."""
    waiting = _steps(draws)
    open_conditions = list(conditions)
    placed: list[Step] = []
    known: set[str] = set()

    def place(step: Step) -> None:
        waiting.remove(step)
        placed.append(step)
        known.update(step.targets)
        for condition in [one for one in open_conditions if one.names <= known]:
            step.tests.append(condition)
            open_conditions.remove(condition)

    while waiting:
        plans = [_plan(condition, waiting, known) for condition in open_conditions]
        _, chosen, reckoned = min(
            (plan for plan in plans if plan[1]), key=lambda plan: plan[0], default=(0, [waiting[0]], None)
        )
        for step in chosen:
            place(step)
        if reckoned is not None:
            last, side = chosen[-1], reckoned
            last.reckoned = side
            for item in () if isinstance(last.domain, range) else last.domain or ():
                last.index.setdefault(item, []).append(item)
    for step in placed:
        step.tests.sort(key=lambda condition: condition.cost)
    return placed


def _steps(draws: Sequence[Draw]) -> list[Step]:
    targets = {target for draw in draws for target in draw.targets}
    steps: list[Step] = []
    for draw in draws:
        domain = None if draw.needs & targets else draw.domain({})
        if draw.kind == "distinct":
            for place, target in enumerate(draw.targets):
                steps.append(Step((target,), draw, domain, draw.targets[:place]))
        else:
            steps.append(Step(draw.targets, draw, domain))
    return steps


def _plan(
    condition: Expression, waiting: Sequence[Step], known: set[str]
) -> tuple[float, list[Step], Expression | None]:
    """(combinations, the steps that make ``condition`` decidable, how the last of them is reckoned or None)."""
    steps = _needed(condition.names - known, waiting, known)
    steps.sort(key=lambda step: step.size)
    steps = _after_needs(steps, known)
    reckoned = None
    for name, side in _sides(condition):
        step = next((step for step in steps if step.targets == (name,)), None)
        free = (
            step is not None
            and step.domain is not None
            and step.draw.kind == "each"
            and name not in side.names
        )
        depended_on = any(name in other.draw.needs for other in steps)
        if step is not None and free and not depended_on:
            steps = [other for other in steps if other is not step] + [step]
            reckoned = side
            break
    combinations = 1 / STRICT if _strict(condition.tree) else 1.0
    for step in steps[: -1 if reckoned is not None else None]:
        combinations *= step.size
    return combinations, steps, reckoned


def _strict(tree: ast.expr) -> bool:
    """Whether few values meet a condition, as with divisors and equations."""
    if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name):
        return tree.func.id in ("is_int", "divides")
    return isinstance(tree, ast.Compare) and isinstance(tree.ops[0], ast.Eq)


def _needed(names: Iterable[str], waiting: Sequence[Step], known: set[str]) -> list[Step]:
    """The waiting steps for ``names``, for what their domains read, and for earlier items of the same draw."""
    missing, found = set(names), []
    while missing:
        name = min(missing)
        missing.discard(name)
        step = next((step for step in waiting if name in step.targets and step not in found), None)
        if step is not None:
            found.append(step)
            missing |= (step.draw.needs | set(step.excluded)) - known - {name}
    return found


def _after_needs(steps: list[Step], known: set[str]) -> list[Step]:
    """The steps in their order, but each after those whose values it needs."""
    result: list[Step] = []
    ready = set(known)
    while steps:
        names = {target for step in steps for target in step.targets}
        step = next(
            (s for s in steps if not (s.draw.needs | set(s.excluded)) & names - ready - set(s.targets)),
            steps[0],
        )
        steps = [other for other in steps if other is not step]
        result.append(step)
        ready.update(step.targets)
    return result


def _sides(condition: Expression) -> list[tuple[str, Expression]]:
    """(name, the other side) where a plain name is one side of a single ``==``."""
    tree = condition.tree
    if not isinstance(tree, ast.Compare) or len(tree.ops) != 1 or not isinstance(tree.ops[0], ast.Eq):
        return []
    left, right = tree.left, tree.comparators[0]
    pairs = ((left, right), (right, left))
    return [(name.id, Expression(condition.text, side)) for name, side in pairs if isinstance(name, ast.Name)]
