"""Constraint-aware search for values of a template's variables.

1. Draws that no condition reads are taken at random. The others fall into groups that conditions tie together.
2. A group with few combinations is enumerated once: its solutions are then taken at random, each equally likely,
   and a group without any proves the template unsatisfiable.
3. In a larger group a few plain guesses are tried first. Then it is searched depth first in random order, each
   condition tested as soon as its last name has a value; a variable that stands alone on one side of an ``==`` is
   reckoned from the other side, and the last variables are tested all at once (`Grid`). The search restarts
   often, so that an unlucky first choice cannot hold it up.

Budgets count work, never time: the same seed gives the same values on any machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from cca.problems.templates.draws import Draw
from cca.problems.templates.exact_numbers import ExpressionError
from cca.problems.templates.expressions import Expression
from cca.problems.templates.grid import LARGEST_GRID, Grid, griddable
from cca.problems.templates.plan import Step, ordered, split, tied
from cca.problems.templates.syntax import brief
from cca.problems.templates.word_lists import PEOPLE

ENUMERATED = 20_000
"""A group with at most this many combinations is enumerated; its solutions are then equally likely."""

ENUMERATION_BUDGET = 10_000_000

BUDGETS = (*(100_000 * (turn & -turn) for turn in range(1, 32)), 5_000_000)
"""Work of one search after the other (a unit is about 0.1 microseconds): many short ones, for a new first choice is
often better than going on; now and then a longer one, and a last one that may prove that there is nothing."""

FAILURES = (ExpressionError, ArithmeticError, TypeError, ValueError, LookupError)

GUESSES = 12

Random = Callable[[], float]


class Unsatisfiable(ExpressionError):
    """No values meet the conditions. ``proven``: every combination was tried."""

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
        self._free: list[_Free] = []
        for members in tied(draws, conditions):
            names = {target for draw in members for target in draw.targets}
            tests = [part for one in conditions if one.names & names for part in split(one)]
            if len(members) > 1 or tests or members[0].needs:
                self._groups.append(_Group(members, tests))
            else:
                self._free.append(_Free(members[0]))
        people = [free for free in self._free if free.people]
        self._people = (
            tuple(target for free in people for target in free.draw.targets) if len(people) > 1 else ()
        )

    def sample(self, generator: np.random.Generator) -> dict[str, Any]:
        """Values for every target. Raises Unsatisfiable when there are none, or none were found in the budget."""
        if self._always_false is not None:
            raise Unsatisfiable(f"condition '{brief(self._always_false.text)}' is never met", proven=True)
        random, values = generator.random, {}
        for group in self._groups:
            group.sample(random, values)
        while True:
            for free in self._free:
                free.sample(random, values)
            # People of one problem bear different names, or nobody could tell who is meant.
            if not self._people or len({values[name] for name in self._people}) == len(self._people):
                return values


class _Free:
    """A draw that no condition reads."""

    def __init__(self, draw: Draw) -> None:
        self.draw = draw
        self.items = draw.domain({})
        self.people = draw.kind in ("each", "distinct") and len(self.items) > 20 and self.items[0] in PEOPLE

    def sample(self, random: Random, values: dict[str, Any]) -> None:
        targets, items = self.draw.targets, self.items
        if self.draw.kind == "each":
            values[targets[0]] = items[int(random() * len(items))]
        elif self.draw.kind == "distinct":
            chosen: list[int] = []
            while len(chosen) < len(targets):
                index = int(random() * len(items))
                if index not in chosen:
                    values[targets[len(chosen)]] = items[index]
                    chosen.append(index)
        else:
            values.update(zip(targets, items[int(random() * len(items))], strict=True))


class _Group:
    """Draws that conditions tie together, in the order in which they are given values."""

    def __init__(self, draws: Sequence[Draw], conditions: Sequence[Expression]) -> None:
        self.conditions = conditions
        self.targets = tuple(target for draw in draws for target in draw.targets)
        self.search = _Search(ordered(draws, conditions))
        work = self.search.size * (1 + sum(condition.cost for condition in conditions))
        self.enumerable = self.search.size <= ENUMERATED and work <= ENUMERATION_BUDGET
        self.solutions: list[tuple[Any, ...]] | None = None
        self.failed: Unsatisfiable | None = None

    def sample(self, random: Random, values: dict[str, Any]) -> None:
        if self.failed is not None:
            raise self.failed
        if self.solutions is None and self.enumerable:
            found = self.search.every({})
            self.solutions = [tuple(one[target] for target in self.targets) for one in found]
            if not self.solutions:
                self._fail(proven=True)
        if self.solutions is not None:
            values.update(zip(self.targets, self.solutions[int(random() * len(self.solutions))], strict=True))
            return
        if any(self.search.guess(random, values) for _ in range(GUESSES)):
            return
        for budget in BUDGETS:
            self.search.left = budget
            if self.search.run(0, random, values):
                return
            if self.search.left > 0:
                self._fail(proven=True)
        self._fail(proven=False)

    def _fail(self, proven: bool) -> None:
        names = ", ".join(self.targets[:8])
        texts = "; ".join(brief(condition.text) for condition in self.conditions[:3])
        how = "no combination" if proven else "a long search found no combination"
        self.failed = Unsatisfiable(f"{how} of {names} meets the conditions ({texts}){self._hint()}", proven)
        raise self.failed

    def _hint(self) -> str:
        """A condition that cannot be reckoned at all explains more than that nothing meets it."""
        values: dict[str, Any] = {}
        try:
            for step in self.search.all_steps:
                step.assign((step.domain or step.draw.domain(values))[0], values)
            for condition in self.conditions:
                condition(values)
        except ExpressionError as error:
            return f"; {error}"
        return ""


class _Search:
    """Depth first through ``steps``, the last of them as one `Grid`. ``left`` is the work that may still be done."""

    def __init__(self, steps: Sequence[Step]) -> None:
        first, product = len(steps), 1
        while first and griddable(steps[first - 1]):
            product *= 1 if steps[first - 1].reckoned is not None else steps[first - 1].size
            if product > LARGEST_GRID:
                break
            first -= 1
        self.all_steps, self.steps = steps, steps[:first]
        self.grid = Grid(steps[first:])
        self.sieves = [Grid([step]) if _worth_sieving(step) else None for step in self.steps]
        self.size = math.prod(step.size for step in self.steps if step.reckoned is None) * self.grid.size
        self.left = 0

    def guess(self, random: Random, values: dict[str, Any]) -> bool:
        """One random value for every step, without going back: fast and unbiased where conditions are lax."""
        for step in self.all_steps:
            try:
                items = step.items(values)
            except FAILURES:
                return False
            if not items:
                return False
            step.assign(items[int(random() * len(items))], values)
            if not all(_holds(test, values) for test in step.tests):
                return False
        return True

    def run(self, depth: int, random: Random, values: dict[str, Any]) -> bool:
        """Give ``values`` that meet every test. False: there are none, or (``left`` <= 0) the work is done."""
        if depth == len(self.steps):
            return next(self._grid(values, random), None) is not None
        step = self.steps[depth]
        for item in _shuffled(self._candidates(depth, values), random):
            self.left -= 10
            step.assign(item, values)
            for test in step.tests:
                self.left -= 3 * test.cost
                if not _holds(test, values):
                    break
            else:
                if self.run(depth + 1, random, values):
                    return True
            if self.left <= 0:
                return False
        return False

    def every(self, values: dict[str, Any], depth: int = 0) -> Iterator[dict[str, Any]]:
        """All solutions (always the same dict)."""
        if depth == len(self.steps):
            yield from self._grid(values, None)
            return
        step = self.steps[depth]
        for item in self._candidates(depth, values):
            step.assign(item, values)
            if all(_holds(test, values) for test in step.tests):
                yield from self.every(values, depth + 1)

    def _candidates(self, depth: int, values: dict[str, Any]) -> Sequence[Any]:
        step, sieve = self.steps[depth], self.sieves[depth]
        if sieve is None or step.domain is None:
            return _items(step, values)
        self.left -= sieve.cost
        try:
            return [step.domain[index] for index in sieve.survivors(values).tolist()]
        except FAILURES:
            return ()

    def _grid(self, values: dict[str, Any], random: Random | None) -> Iterator[dict[str, Any]]:
        grid = self.grid
        price = 50 + 3 * sum(test.cost for test in grid.tests)
        self.left -= grid.cost
        try:
            alive = grid.survivors(values)
        except FAILURES:
            return
        for index in alive.tolist() if random is None else _shuffled(alive, random):
            grid.assign(int(index), values)
            for _ in self._reckoned(0, values, random):
                if all(_holds(test, values) for test in grid.tests):
                    yield values
            self.left -= price
            if random is not None and self.left <= 0:
                return

    def _reckoned(self, depth: int, values: dict[str, Any], random: Random | None) -> Iterator[None]:
        """Every choice of items for the reckoned variables (one, unless several items have the same number)."""
        if depth == len(self.grid.reckoned):
            yield
            return
        step = self.grid.reckoned[depth]
        items = _items(step, values)
        for item in items if random is None else _shuffled(items, random):
            step.assign(item, values)
            yield from self._reckoned(depth + 1, values, random)


def _worth_sieving(step: Step) -> bool:
    return bool(step.tests) and step.reckoned is None and griddable(step) and step.size >= 50


def _items(step: Step, values: dict[str, Any]) -> Sequence[Any]:
    try:
        return step.items(values)
    except FAILURES:
        return ()


def _shuffled(items: Sequence[Any], random: Random) -> Iterator[Any]:
    """The items in random order: a random start and a stride without a common divisor, without a shuffled copy."""
    count = len(items)
    if count < 2:
        yield from items
        return
    start, stride = int(random() * count), 1 + int(random() * (count - 1))
    while math.gcd(stride, count) != 1:
        stride = stride % (count - 1) + 1
    for position in range(count):
        yield items[(start + position * stride) % count]


def _holds(condition: Expression, values: Mapping[str, Any]) -> bool:
    """Whether the condition is met; values for which it cannot be reckoned (a zero divisor) do not meet it."""
    try:
        return bool(condition.closure(values))
    except FAILURES:
        return False
