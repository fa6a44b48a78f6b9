"""A Draw: one ``#init`` line, that is one or several targets and the domain their values are taken from.

name = sample(names)                    each target one item of a list
a, b = sample(colors, 2)                different items
a, b = sample([("pen", 2), ("cup", 5)]) the parts of one item
d1, d2 = sample_sequential(weekdays, 2) neighbours, going round for days, months and seasons
$x = range(5, 100, 5)                   any list, range or array is a domain; a single value is a constant
$y = sample(range(1, 9)) * x            an expression around a draw; earlier targets may be read
a, b = sorted(sample(range(9), 2))      an expression around several items, or several draws: the items are drawn under
pair = sample(names, 2)                 names of their own (`_taken_apart`)
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from cca.problems.templates.exact_numbers import LONGEST, ExpressionError, Worded, shown
from cca.problems.templates.expressions import Expression
from cca.problems.templates.formats import text
from cca.problems.templates.functions import INIT_ONLY, WIDEST
from cca.problems.templates.operators import Array
from cca.problems.templates.syntax import brief, dotted, is_dotted, parse
from cca.problems.templates.word_lists import CYCLES, LISTS, spelled

_PICKED = "drawn_item"
RANGES = ("range", "arange", "frange", "linspace", "numbers_within")
COUNTS = ("k", "size", "n")
"""Names that a count may be given by: ``sample(names, k=2)``."""


@dataclass(frozen=True)
class Draw:
    """``kind``: "each" (one target), "distinct", "run" or "rows" (all targets at once)."""

    targets: tuple[str, ...]
    kind: str
    source: Expression
    mapping: Expression | None
    line: str

    @property
    def needs(self) -> frozenset[str]:
        """The names whose values the domain depends on."""
        names = self.source.names | (self.mapping.names - {_PICKED} if self.mapping else frozenset())
        return frozenset(name for name in names if name not in LISTS)

    @property
    def is_list(self) -> bool:
        """Whether the items are taken from lists as they stand, and not reckoned."""
        return self.mapping is None and not any(
            isinstance(node, ast.Call) for node in ast.walk(self.source.tree)
        )

    def fixed(self, texts: Sequence[str]) -> Draw:
        """This draw with one value for each target, read from its text ("half", "12", "apple")."""
        values = [spelled(value) for value in texts]
        source = Expression(self.line, ast.List([], ast.Load()))
        source.closure = lambda values_: [values[0] if len(values) == 1 else tuple(values)]  # noqa: ARG005
        return Draw(self.targets, "each" if len(values) == 1 else "rows", source, None, self.line)

    def domain(self, values: Mapping[str, Any]) -> Sequence[Any]:
        """The items this draw chooses from, each once. For "run" and "rows" an item holds a value per target.

        Raises ExpressionError when the list is empty or too short for the targets.
        """
        found = self.source(values)
        items = found if isinstance(found, list | tuple | range) else [found]
        if not isinstance(items, range):
            items = _once(items if self.kind == "rows" else (_worded(item) for item in items))
        if len(items) > WIDEST:
            raise ExpressionError(
                f"expected at most {WIDEST} items in '{brief(self.line)}', got {len(items)}"
            )
        if self.mapping is not None:
            if len(items) > LONGEST:
                raise ExpressionError(
                    f"expected at most {LONGEST} items in '{brief(self.line)}', got {len(items)}"
                )
            items = _once(self.mapping({**values, _PICKED: item}) for item in items)
        count = len(self.targets)
        if self.kind == "run":
            items = _runs(tuple(items), count)
        if self.kind == "rows":
            for item in items:
                if not isinstance(item, list | tuple | str) or len(item) != count:
                    raise ExpressionError(
                        f"expected items of {count} parts in '{brief(self.line)}', got {shown(item)}"
                    )
        if len(items) < (count if self.kind == "distinct" else 1):
            raise ExpressionError(f"too few items to draw from in '{brief(self.line)}'")
        return items


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
    if isinstance(tree, ast.Call) and is_dotted(tree.func) and dotted(tree.func).rpartition(".")[2] in RANGES:
        return [_draw((target,), tree, line) for target in targets]  # "a, b = range(...)": each of its own
    calls = _draw_calls(tree)
    if len(calls) > 1 or any((call is not tree or len(targets) == 1) and _count(call) > 1 for call in calls):
        return _taken_apart(targets, tree, calls, line)
    return [_draw(targets, tree, line)]


def _taken_apart(targets: tuple[str, ...], tree: ast.expr, calls: list[ast.Call], line: str) -> list[Draw]:
    """The draws of a line with several, each with names of its own, and last what is made of them."""
    draws: list[Draw] = []
    for place, call in enumerate(calls):
        count = _count(call)
        names = tuple(f"{targets[0]}_draw{place}_{item}" for item in range(count))
        draws.append(_draw(names, call, line))
        items: list[ast.expr] = [ast.Name(name, ast.Load()) for name in names]
        tree = _Replaced(call, items[0] if count == 1 else ast.List(items, ast.Load())).visit(tree)
    return [*draws, Draw(targets, *_constant(targets, tree, line), None, line)]


def _constant(targets: tuple[str, ...], tree: ast.expr, line: str) -> tuple[str, Expression]:
    """(kind, source) of a draw whose one item is the value of ``tree``."""
    return "each" if len(targets) == 1 else "rows", Expression(line, ast.List([tree], ast.Load()))


def _draw_calls(tree: ast.expr) -> list[ast.Call]:
    """The draws in a tree; one within another is not."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and _drawing(node)]
    if any(other is not call and other in ast.walk(call) for call in calls for other in calls):
        raise ExpressionError("expected no sample() within another, got one")
    return calls


def _count(call: ast.Call) -> int:
    """How many items a draw takes, as far as a plain number says so."""
    given = call.args[1:2] + [word.value for word in call.keywords if word.arg in COUNTS]
    ranged = dotted(call.func).endswith(("randint", "randrange"))
    (count,) = given if len(given) == 1 and not ranged else [ast.Constant(1)]
    return count.value if isinstance(count, ast.Constant) and type(count.value) is int else 1


def _draw(targets: tuple[str, ...], tree: ast.expr, line: str) -> Draw:
    calls = _draw_calls(tree)
    if not calls:
        return Draw(targets, "each" if len(targets) == 1 else "rows", Expression(line, tree), None, line)
    (call,) = calls
    name, arguments = (
        dotted(call.func),
        call.args + [word.value for word in call.keywords if word.arg in COUNTS],
    )
    if len(arguments) > len(call.args) + 1 or len(call.keywords) > len(arguments) - len(call.args):
        raise ExpressionError(f"expected {name}(list, count), got '{brief(line)}'")
    if not 1 <= len(arguments) <= 2:
        raise ExpressionError(f"expected {name}(list) or {name}(list, count), got '{brief(line)}'")
    mapping = (
        None if call is tree else Expression(line, _Replaced(call, ast.Name(_PICKED, ast.Load())).visit(tree))
    )
    if name.endswith(("randint", "randrange")):
        inclusive = name in ("randint", "random.randint")  # numpy's leaves the upper end out
        high = ast.BinOp(arguments[-1], ast.Add(), ast.Constant(1)) if inclusive else arguments[-1]
        bounds = ast.Call(ast.Name("range", ast.Load()), [*arguments[:-1], high], [])
        return Draw(targets, "each", Expression(line, bounds), mapping, line)
    source = Expression(line, arguments[0])
    if len(arguments) == 1:
        return Draw(targets, "each" if len(targets) == 1 else "rows", source, mapping, line)
    count = Expression(line, arguments[1])({})
    if count != len(targets):
        raise ExpressionError(f"expected {shown(count)} names for {shown(count)} items, got '{brief(line)}'")
    kind = "run" if name == "sample_sequential" else ("each" if count == 1 else "distinct")
    return Draw(targets, kind, source, mapping, line)


def _drawing(node: ast.Call) -> bool:
    return is_dotted(node.func) and dotted(node.func) in INIT_ONLY


class _Replaced(ast.NodeTransformer):
    """The tree with the draw replaced by what stands for the drawn items."""

    def __init__(self, call: ast.Call, standing: ast.expr) -> None:
        self.call = call
        self.standing = standing

    def visit_Call(self, node: ast.Call) -> ast.AST:
        return self.standing if node is self.call else self.generic_visit(node)


def _worded(item: Any) -> Any:
    """A pair of words and their number as one Worded, an array as a list; anything else as it is."""
    if isinstance(item, Array):
        return list(item)
    pair = isinstance(item, tuple) and len(item) == 2 and isinstance(item[1], int | Fraction)
    return (
        Worded(text(item[0]), item[1]) if pair and (isinstance(item[0], str) or item[0] == item[1]) else item
    )


def _once(items: Any) -> list[Any]:
    """The items without repetitions, in their order: a repeated list (``[...] * 10``) offers nothing more."""
    return list({(type(item), repr(item)): item for item in items}.values())


def _runs(items: tuple[Any, ...], count: int) -> list[tuple[Any, ...]]:
    if items in CYCLES and count <= len(items):
        return [tuple((items + items)[start : start + count]) for start in range(len(items))]
    return [items[start : start + count] for start in range(len(items) - count + 1)]
