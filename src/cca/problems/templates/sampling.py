"""Values for a template's variables that meet its conditions.

1. Draws that no condition reads are taken at random. The others fall into groups that conditions tie together.
2. A group with few combinations is enumerated: each of its solutions is then equally likely, and a group without any
   proves that the conditions cannot be met.
3. In another group all variables are guessed, one after the other, until a guess meets every condition. A condition is
   tested as soon as its last name has a value, a condition with few combinations comes first, so that most wrong
   guesses are short, and a variable that stands alone on one side of an equation is computed from the other side.

Time decides when a search is given up, never what it finds: the same seed gives the same values on any machine.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from time import perf_counter, thread_time
from typing import Any

import numpy as np

from cca.problems.templates.draws import Draw, Step, holds
from cca.problems.templates.exact_numbers import LONGEST, ExpressionError, brief
from cca.problems.templates.expressions import Expression, dotted

FEW = 20_000
"""Most combinations of a group that is enumerated."""

SECONDS = 0.6
"""CPU time for the first sample; the hardest published template takes 0.02 on average."""

MOST_ITEMS = 3 * LONGEST
MOST_PARTS = 100
"""Most items of all lists, and most comparisons, of a template: both are prepared before anything is sampled."""

PATIENCE = 10
"""Factor of ``SECONDS`` once there is a sample: more will be found, however long it takes."""

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
        started = thread_time()
        targets = {target for draw in draws for target in draw.targets}
        self._failed: Unsatisfiable | None = None
        self._groups: list[_Group] = []
        self._free: list[Step] = []
        listed = parts = 0
        for condition in conditions:
            if not condition.names & targets and not holds(condition, {}):
                self._failed = Unsatisfiable(f"condition '{brief(condition.text)}' is never met", proven=True)
        for members in tied(draws, conditions):
            names = {target for draw in members for target in draw.targets}
            tests = [part for one in conditions if one.names & names for part in split(one)]
            steps: list[Step] = []
            for draw in members:
                steps.append(Step(draw, targets))
                listed += 0 if isinstance(steps[-1].items, range) else len(steps[-1].items or ())
                if listed > MOST_ITEMS:
                    raise ExpressionError(f"expected at most {MOST_ITEMS} items in the lists of #init, got more")
            parts += len(tests)
            if parts > MOST_PARTS:
                raise ExpressionError(f"expected at most {MOST_PARTS} comparisons in #conditions, got more")
            if len(members) > 1 or tests or members[0].needs:
                self._groups.append(_Group(steps, tests))
            else:
                self._free += steps
        people = [target for step in self._free if step.people for target in step.draw.targets]
        self._people = people if sum(step.people for step in self._free) > 1 else []
        self._seconds = SECONDS - (thread_time() - started)

    def sample(self, generator: np.random.Generator) -> dict[str, Any]:
        """Values for every target. Raises Unsatisfiable when there are none, or none were found in time."""
        if self._failed is not None:
            raise self._failed
        random, values, deadline = generator.random, {}, _Deadline(self._seconds)
        try:
            for group in self._groups:
                group.sample(random, values, deadline)
        except Unsatisfiable as error:
            self._failed = error
            raise
        self._seconds = PATIENCE * SECONDS
        while True:
            for step in self._free:
                step.draw.choose(step.items or (), random, values)
            # People of one problem have different names, or nobody could tell who is meant.
            if len({values[name] for name in self._people}) == len(self._people):
                return values


class _Deadline:
    """A limit on CPU time. The wall clock, which is cheap to read, tells when it may be over."""

    def __init__(self, seconds: float) -> None:
        self.end = thread_time() + seconds
        self.look = perf_counter() + seconds

    def over(self) -> bool:
        if perf_counter() < self.look:
            return False
        left = self.end - thread_time()
        self.look = perf_counter() + left
        return left <= 0


class _Group:
    """Draws that conditions tie together, in the order in which they are given values."""

    def __init__(self, steps: Sequence[Step], conditions: Sequence[Expression]) -> None:
        self.conditions = conditions
        self.targets = tuple(target for step in steps for target in step.draw.targets)
        self.steps = ordered(steps, conditions)
        few = math.prod(step.size for step in steps if step.solved is None) <= FEW
        self.enumerable = few and all(step.items is not None and step.draw.kind != "distinct" for step in steps)
        self.solutions: list[tuple[Any, ...]] = []

    def sample(self, random: Random, values: dict[str, Any], deadline: _Deadline) -> None:
        """Raises Unsatisfiable when no values meet the conditions, or none were found before the deadline."""
        if not self.enumerable:
            while not self._guess(random, values):
                self._check(deadline)
            return
        if not self.solutions:
            self.solutions = list(self._enumerate(0, {}, deadline))
        if not self.solutions:
            raise self._unsatisfiable("no combination", proven=True)
        values.update(zip(self.targets, self.solutions[int(random() * len(self.solutions))], strict=True))

    def _guess(self, random: Random, values: dict[str, Any]) -> bool:
        for step in self.steps:
            items = step.choices(values)
            if not items:
                return False
            step.draw.choose(items, random, values)
            if not step.passes(values):
                return False
        return True

    def _enumerate(self, depth: int, values: dict[str, Any], deadline: _Deadline) -> Iterator[tuple[Any, ...]]:
        if depth == len(self.steps):
            yield tuple(values[target] for target in self.targets)
            return
        step = self.steps[depth]
        for item in step.choices(values):
            self._check(deadline)
            step.draw.assign(item, values)
            if step.passes(values):
                yield from self._enumerate(depth + 1, values, deadline)

    def _check(self, deadline: _Deadline) -> None:
        if deadline.over():
            raise self._unsatisfiable("a long search found no combination", proven=False)

    def _unsatisfiable(self, how: str, proven: bool) -> Unsatisfiable:
        names = ", ".join(self.targets[:8])
        texts = "; ".join(brief(condition.text) for condition in self.conditions[:3])
        return Unsatisfiable(f"{how} of {names} meets the conditions ({texts}){self._hint()}", proven)

    def _hint(self) -> str:
        """A condition that cannot be evaluated at all explains more than that nothing meets it."""
        values: dict[str, Any] = {}
        try:
            for step in self.steps:
                items = step.draw.items(values) if step.items is None else step.items
                step.draw.choose(items, np.random.default_rng(0).random, values)
            for condition in self.conditions:
                condition(values)
        except ExpressionError as error:
            return f"; {error}"
        return ""


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
    tree, solved = condition.tree, None
    equation = isinstance(tree, ast.Compare) and len(tree.ops) == 1 and isinstance(tree.ops[0], ast.Eq)
    sides = (tree.left, tree.comparators[0]) if isinstance(tree, ast.Compare) and equation else ()
    for name, side in zip(sides, sides[::-1], strict=True):
        step = next((one for one in steps if isinstance(name, ast.Name) and one.draw.targets == (name.id,)), None)
        if step is None or not step.solvable or any(step.draw.targets[0] in one.draw.needs for one in steps):
            continue
        other = Expression(condition.text, side)
        if step.draw.targets[0] not in other.names:
            steps, solved = [*(one for one in steps if one is not step), step], other
            break
    sizes = [step.size for step in (steps if solved is None else steps[:-1])]
    strict = equation or (isinstance(tree, ast.Call) and dotted(tree.func) in ("is_int", "divides"))
    return math.prod(sizes) / (_STRICT if strict else 1), steps, solved


def _needed(names: frozenset[str], waiting: Sequence[Step]) -> list[Step]:
    """The waiting steps for ``names``, small ones first, each after those that its items depend on."""
    wanted = [step for step in waiting if names.intersection(step.draw.targets)]
    needed: list[Step] = []
    for step in sorted(wanted, key=lambda step: (step.size, min(names.intersection(step.draw.targets)))):
        before = _needed(step.draw.needs, [one for one in waiting if one is not step]) if step.draw.needs else []
        needed += [one for one in (*before, step) if one not in needed]
    return needed
