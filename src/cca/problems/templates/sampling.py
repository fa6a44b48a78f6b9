"""Values for a template's variables that meet its conditions.

1. Draws that no condition reads are taken at random. The others fall into groups that conditions tie together.
2. In a group all variables are guessed, one after the other, until a guess meets every condition. A condition is tested
   as soon as its last name has a value, a condition with few combinations comes first, so that most wrong guesses are
   short, and a variable that stands alone on one side of an equation is computed from the other side.
3. A group with few combinations, or where guesses fail, is enumerated if that takes not too long: each of its solutions
   is then equally likely, and a group without any proves that the conditions cannot be met.

Budgets count work, never time: the same seed gives the same values on any machine.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from cca.problems.templates.draws import FAILURES, Draw, Step
from cca.problems.templates.exact_numbers import ExpressionError, brief
from cca.problems.templates.expressions import Expression

FEW = 20_000
"""Most combinations of a group that is enumerated at once, not guessed first."""

MANY = 1_000_000
"""Most combinations of a group that is ever enumerated."""

GUESSING = 150_000
"""Work on guesses before a group is enumerated; a unit takes 0.2 to 0.6 microseconds."""

BUDGET = 3_000_000
"""Work of one enumeration, and of the search for the first solution."""

PATIENCE = 20
"""Factor of the budget once there is a solution: more will be found, however long it takes."""


_STRICT = 20
"""Factor by which a divisor or an equation excludes more than a comparison."""

Random = Callable[[], float]


class Unsatisfiable(ExpressionError):
    """No values meet the conditions. ``proven`` is True when every combination was tried."""

    def __init__(self, message: str, proven: bool) -> None:
        super().__init__(message)
        self.proven = proven


class Sampler:
    """Samples values for the targets of ``draws`` that meet ``conditions``."""

    def __init__(self, draws: Sequence[Draw], conditions: Sequence[Expression]) -> None:
        targets = {target for draw in draws for target in draw.targets}
        fixed = [condition for condition in conditions if not condition.names & targets]
        self._always_false = next((condition for condition in fixed if not _holds(condition, {})), None)
        self._groups: list[_Group] = []
        self._free: list[Step] = []
        for members in tied(draws, conditions):
            names = {target for draw in members for target in draw.targets}
            tests = [part for one in conditions if one.names & names for part in split(one)]
            steps = [Step(draw, targets) for draw in members]
            if len(members) > 1 or tests or members[0].needs:
                self._groups.append(_Group(steps, tests))
            else:
                self._free += steps
        people = [target for step in self._free if step.people for target in step.draw.targets]
        self._people = people if sum(step.people for step in self._free) > 1 else []

    def sample(self, generator: np.random.Generator) -> dict[str, Any]:
        """Values for every target. Raises Unsatisfiable when there are none, or none were found in the budget."""
        if self._always_false is not None:
            raise Unsatisfiable(f"condition '{brief(self._always_false.text)}' is never met", proven=True)
        random, values = generator.random, {}
        for group in self._groups:
            group.sample(random, values)
        while True:
            for step in self._free:
                step.draw.choose(step.items or (), random, values)
            # People of one problem have different names, or nobody could tell who is meant.
            if len({values[name] for name in self._people}) == len(self._people):
                return values


class _Group:
    """Draws that conditions tie together, in the order in which they are given values."""

    def __init__(self, steps: Sequence[Step], conditions: Sequence[Expression]) -> None:
        self.conditions = conditions
        self.targets = tuple(target for step in steps for target in step.draw.targets)
        self.steps = ordered(steps, conditions)
        combinations = math.prod(step.size for step in steps if step.solved is None)
        self.few = combinations <= FEW
        self.enumerable = combinations <= MANY and not any(
            step.items is None or step.draw.kind == "distinct" for step in steps
        )
        self.solutions: list[tuple[Any, ...]] = []
        self.budget = BUDGET
        self.left = 0
        self.failed: Unsatisfiable | None = None

    def sample(self, random: Random, values: dict[str, Any]) -> None:
        if self.failed is not None:
            raise self.failed
        if not (self.enumerable and self.few) and self._guess(GUESSING, random, values):
            return
        if self.enumerable and not self.solutions:
            self._enumerate()
        if self.enumerable:
            values.update(zip(self.targets, self.solutions[int(random() * len(self.solutions))], strict=True))
        elif self._guess(self.budget, random, values):
            self.budget = PATIENCE * BUDGET
        else:
            self._fail(proven=False)

    def _guess(self, budget: int, random: Random, values: dict[str, Any]) -> bool:
        """Guess until every condition is met; False when the budget is spent."""
        self.left = budget
        while self.left > 0:
            for step in self.steps:
                self.left -= step.cost
                items = step.choices(values)
                if not items:
                    break
                if step.items is None and not isinstance(items, range):
                    self.left -= 10 * len(items)  # a list is made again for every guess
                step.draw.choose(items, random, values)
                if not self._tests(step, values):
                    break
            else:
                return True
        return False

    def _tests(self, step: Step, values: Mapping[str, Any]) -> bool:
        for test in step.tests:
            self.left -= test.cost + 2
            if not _holds(test, values):
                return False
        return True

    def _enumerate(self) -> None:
        """Find all solutions; a group that takes too long is not enumerable after all."""
        self.left = BUDGET
        values: dict[str, Any] = {}

        def turn(depth: int) -> None:
            if depth == len(self.steps):
                self.solutions.append(tuple(values[target] for target in self.targets))
                return
            step = self.steps[depth]
            for item in step.choices(values):
                self.left -= step.cost
                if self.left <= 0:
                    return
                step.draw.assign(item, values)
                if self._tests(step, values):
                    turn(depth + 1)

        turn(0)
        self.enumerable = self.left > 0
        if not self.enumerable:
            self.solutions = []
        elif not self.solutions:
            self._fail(proven=True)

    def _fail(self, proven: bool) -> None:
        names = ", ".join(self.targets[:8])
        texts = "; ".join(brief(condition.text) for condition in self.conditions[:3])
        how = "no combination" if proven else "a long search found no combination"
        self.failed = Unsatisfiable(f"{how} of {names} meets the conditions ({texts}){self._hint()}", proven)
        raise self.failed

    def _hint(self) -> str:
        """A condition that cannot be evaluated at all explains more than that nothing meets it."""
        values: dict[str, Any] = {}
        try:
            for step in self.steps:
                step.draw.choose(step.draw.items(values), np.random.default_rng(0).random, values)
            for condition in self.conditions:
                condition(values)
        except ExpressionError as error:
            return f"; {error}"
        return ""


def _holds(condition: Expression, values: Mapping[str, Any]) -> bool:
    """True when the condition is met; it is not met by values for which it cannot be evaluated (a zero divisor)."""
    try:
        return bool(condition.closure(values))
    except FAILURES:
        return False


def tied(draws: Sequence[Draw], conditions: Iterable[Expression]) -> list[list[Draw]]:
    """The draws in groups: two share a group when a condition, or the items of one, read names of both."""
    owner = {target: index for index, draw in enumerate(draws) for target in draw.targets}
    group = list(range(len(draws)))
    needs = [draw.needs | {draw.targets[0]} for draw in draws]
    for names in [condition.names for condition in conditions] + needs:
        merged = {group[owner[name]] for name in names if name in owner}
        group = [min(merged) if label in merged else label for label in group]
    return [[draw for draw, own in zip(draws, group, strict=True) if own == one] for one in sorted(set(group))]


def split(condition: Expression) -> list[Expression]:
    """The parts of ``a < b < c and d == e``: each can be decided as soon as its own names have values."""
    tree, parts = condition.tree, []
    for part in tree.values if isinstance(tree, ast.BoolOp) and isinstance(tree.op, ast.And) else [tree]:
        if isinstance(part, ast.Compare):
            sides = [part.left, *part.comparators]
            parts += [ast.Compare(sides[n], [op], [sides[n + 1]]) for n, op in enumerate(part.ops)]
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
        _, chosen, solved = min((plan for plan in plans if plan[1]), key=lambda plan: plan[0], default=default)
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
        (name.id, Expression(condition.text, side)) for name, side in (sides, sides[::-1]) if isinstance(name, ast.Name)
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
