"""A Draw: one ``#init`` line, that is one or several targets and the items their values are taken from.

name = sample(names)                    each target one item of a list
a, b = sample(colors, 2)                different items
a, b = sample([("pen", 2), ("cup", 5)]) the parts of one item
d1, d2 = sample_sequential(weekdays, 2) neighbours, going round for days, months and seasons
$x = range(5, 100, 5)                   one item of any list or range; a single value is a constant
$a, $b = np.random.randint(1, 9, 2)     an item of its own for each target
$p, $q = range(9), sample([2, 4])       what stands at its place for each target
$y = sample(range(1, 9)) * x            an expression around one item; other targets may be read
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from cca.problems.templates.exact_numbers import ExpressionError, Worded, brief, shown, written
from cca.problems.templates.expressions import MAXIMUM_COST, SAMPLES, Expression, dotted, parse
from cca.problems.templates.vocabulary import CYCLES, DOMAINS, LISTS, PEOPLE, spelled

_PICKED = "drawn_item"
_RANGES = ("range", "np.arange", "frange", "numbers_within", "np.random.randint")


@dataclass(frozen=True)
class Draw:
    """``kind`` is "each" (one target), "distinct" (different items), "run" or "rows" (one item for all targets)."""

    targets: tuple[str, ...]
    kind: str
    source: Expression
    mapping: Expression | None
    line: str

    @property
    def needs(self) -> frozenset[str]:
        """The names whose values the items depend on."""
        names = self.source.names | (self.mapping.names - {_PICKED} if self.mapping else frozenset())
        return frozenset(name for name in names if name not in LISTS)

    @property
    def is_list(self) -> bool:
        """True when the items are those of lists as they stand."""
        return self.mapping is None and not any(isinstance(node, ast.Call) for node in ast.walk(self.source.tree))

    def fixed(self, texts: Sequence[str]) -> Draw:
        """This draw with one value for each target, read from its text ("half", "12", "apple")."""
        values = tuple(spelled(text) for text in texts)
        source = Expression(self.line, ast.List([], ast.Load()))
        source.closure = lambda _: [values[0] if len(values) == 1 else values]
        return replace(self, kind="each" if len(values) == 1 else "rows", source=source)

    def items(self, values: Mapping[str, Any]) -> Sequence[Any]:
        """The items to choose from, each once. For "run" and "rows" an item holds a value per target.

        Raises ExpressionError when the list is empty or too short for the targets.
        """
        found = self.source(values)
        items = found if isinstance(found, list | tuple | range) else [found]
        if not isinstance(items, range):
            items = _once(items if self.kind == "rows" else (_worded(item) for item in items))
        if self.mapping is not None:
            if len(items) * self.mapping.cost > MAXIMUM_COST:
                raise ExpressionError(f"expected fewer items in '{brief(self.line)}', got {len(items)}")
            items = _once(self.mapping({**values, _PICKED: item}) for item in items)
        count = len(self.targets)
        if self.kind == "run":
            items = _runs(tuple(items), count)
        if self.kind == "rows":
            for item in items:
                if not isinstance(item, list | tuple | str) or len(item) != count:
                    raise ExpressionError(f"expected items of {count} parts in '{brief(self.line)}', got {shown(item)}")
        if len(items) < (count if self.kind == "distinct" else 1):
            raise ExpressionError(f"too few items to draw from in '{brief(self.line)}'")
        return items

    def choose(self, items: Sequence[Any], random: Callable[[], float], values: dict[str, Any]) -> None:
        """Give every target in ``values`` an item, each equally likely."""
        index = int(random() * len(items))
        if self.kind == "distinct":
            chosen = [index]
            while len(chosen) < len(self.targets):
                index = int(random() * len(items))
                chosen += [] if index in chosen else [index]
            values.update((target, items[one]) for target, one in zip(self.targets, chosen, strict=True))
        else:
            self.assign(items[index], values)

    def assign(self, item: Any, values: dict[str, Any]) -> None:
        """Give the targets in ``values`` one item; not for the kind "distinct"."""
        if self.kind == "each":
            values[self.targets[0]] = item
        else:
            values.update(zip(self.targets, item, strict=True))


def parse_draws(line: str) -> list[Draw]:
    """The draws of one ``#init`` line (without its dash). Raises ExpressionError naming the line."""
    left, sign, right = line.partition("=")
    if not sign or ":" in left:
        left, sign, right = line.partition(":")
    if not sign:
        left, sign, right = line.partition(" in ")
    names = re.sub(r"\A[(\[](.*)[)\]]\Z", r"\1", left.strip()).rstrip(",")
    targets = tuple(target.strip().lstrip("$").strip() for target in names.split(","))
    if not sign or not right.strip() or not all(target.isidentifier() for target in targets):
        raise ExpressionError(f"expected 'name = values' in #init, got '{brief(line)}'")
    if any(target.startswith("_") for target in targets):
        raise ExpressionError(f"expected names without a leading underscore, got '{brief(line)}'")
    tree = parse(right.strip().rstrip(",;"))
    if isinstance(tree, ast.Tuple) and len(tree.elts) == len(targets) > 1:
        return [_draw((target,), part, line) for target, part in zip(targets, tree.elts, strict=True)]
    if isinstance(tree, ast.Call) and dotted(tree.func) in _RANGES:
        return [_draw((target,), tree, line) for target in targets]
    return [_draw(targets, tree, line)]


def _draw(targets: tuple[str, ...], tree: ast.expr, line: str) -> Draw:
    kind = "each" if len(targets) == 1 else "rows"
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and dotted(node.func) in SAMPLES]
    if not calls:
        return Draw(targets, kind, Expression(line, tree, DOMAINS), None, line)
    call, name = calls[0], dotted(calls[0].func)
    if len(calls) > 1:
        raise ExpressionError(f"expected one sample() in a line, got {len(calls)} in '{brief(line)}'")
    if call.keywords or not 1 <= len(call.args) <= 2:
        raise ExpressionError(f"expected {name}(list) or {name}(list, count), got '{brief(line)}'")
    mapping = None
    if call is not tree:
        mapping = Expression(line, _Replaced(call, ast.Name(_PICKED, ast.Load())).visit(tree), DOMAINS)
    source = Expression(line, call.args[0], DOMAINS)
    if len(call.args) == 1:
        return Draw(targets, kind, source, mapping, line)
    count = Expression(line, call.args[1])({})
    if count != len(targets):
        raise ExpressionError(f"expected {shown(count)} names for {shown(count)} items, got '{brief(line)}'")
    if mapping is not None and count != 1:
        raise ExpressionError(f"expected nothing around a draw of several items, got '{brief(line)}'")
    kind = "run" if name == "sample_sequential" else ("each" if count == 1 else "distinct")
    return Draw(targets, kind, source, mapping, line)


class _Replaced(ast.NodeTransformer):
    """The tree with the draw replaced by a name for the drawn item."""

    def __init__(self, call: ast.Call, name: ast.Name) -> None:
        self.call = call
        self.name = name

    def visit_Call(self, node: ast.Call) -> ast.AST:
        return self.name if node is self.call else self.generic_visit(node)


def _worded(item: Any) -> Any:
    """A pair of words (or digits) and their number as one Worded; anything else as it is."""
    if not isinstance(item, tuple) or len(item) != 2 or not isinstance(item[1], int | Fraction):
        return item
    text, value = item
    if isinstance(text, str):
        return Worded(text, value)
    return Worded(written(value), value) if text == value else item


def _once(items: Iterable[Any]) -> list[Any]:
    """The items without repetitions, in their order: a repeated list (``[...] * 10``) offers nothing more."""
    return list({(type(item), repr(item)): item for item in items}.values())


def _runs(items: tuple[Any, ...], count: int) -> list[tuple[Any, ...]]:
    if items in CYCLES and count <= len(items):
        return [tuple((items + items)[start : start + count]) for start in range(len(items))]
    return [items[start : start + count] for start in range(len(items) - count + 1)]


FAILURES = (ExpressionError, ArithmeticError, TypeError, ValueError, LookupError)
_UNKNOWN_SIZE = 1_000
"""Assumed number of items that depend on other variables."""


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
        self._index: dict[Any, Any] | None = None

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

    def choices(self, values: Mapping[str, Any]) -> Sequence[Any]:
        """The items that may be chosen after ``values``; none when they cannot be evaluated."""
        try:
            if self.solved is None:
                return self.draw.items(values) if self.items is None else self.items
            value = self.solved.closure(values)
            if isinstance(self.items, range):  # "in" goes through a range for what is no int
                value = value.value if isinstance(value, Worded) else value
                return (value,) if isinstance(value, int) and value in self.items else ()
            self._index = self._index or {item: item for item in self.items or ()}
            return (self._index[value],) if value in self._index else ()
        except FAILURES:
            return ()

    def passes(self, values: Mapping[str, Any]) -> bool:
        return all(holds(test, values) for test in self.tests)


def holds(condition: Expression, values: Mapping[str, Any]) -> bool:
    """True when the condition is met; it is not met by values for which it cannot be evaluated (a zero divisor)."""
    try:
        return bool(condition.closure(values))
    except FAILURES:
        return False
