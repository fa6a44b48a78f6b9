"""A whitelisting evaluator for the expressions of templates. Text from a file is never handed to ``eval``.

An expression is parsed once by ``ast`` in mode "eval", every node is checked against what is listed here, and the
tree becomes one closure over a dict of values; calling it costs about 0.1 microseconds a node. There is no attribute
access at all: a dotted name such as ``np.arange`` is looked up whole among the known functions, a method such as
``.lower()`` among those of ours that go by its name (`methods`), and anything else with a dot is refused. Length,
nesting, powers, repetitions and sizes are bounded, so no expression takes long.
"""

from __future__ import annotations

import ast
import difflib
import operator
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from cca.problems.templates.comprehension import Loop, comprehension
from cca.problems.templates.exact_numbers import LONGEST, ExpressionError, Worded, exact, shown
from cca.problems.templates.formats import formatted
from cca.problems.templates.functions import ARRAYS, FUNCTIONS, INIT_ONLY, LISTING, distinct
from cca.problems.templates.methods import METHODS, PROPERTIES
from cca.problems.templates.operators import bounded, bulk, operation
from cca.problems.templates.syntax import (
    MAXIMUM_COST,
    MAXIMUM_DEPTH,
    MAXIMUM_NODES,
    brief,
    described,
    dotted,
    is_dotted,
    parse,
)
from cca.problems.templates.word_lists import LISTS

Values = Mapping[str, Any]
Closure = Callable[[Any], Any]

_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Is: operator.eq,  # "n is 3", "unit is not other": what their writer means
    ast.IsNot: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda left, right: left in right,
    ast.NotIn: lambda left, right: left not in right,
}


class Expression:
    """A checked expression: call it with values. ``names`` are those it reads, ``cost`` a rough price of one call."""

    __slots__ = ("closure", "cost", "names", "text", "tree")

    def __init__(self, text: str, tree: ast.expr) -> None:
        compiler = _Compiler(LISTING if _uses_arrays(tree) else 0)
        self.text = text
        self.tree = tree
        self.closure = compiler.compile(tree, 0)
        self.names = frozenset(compiler.names)
        self.cost = compiler.cost
        if self.cost > MAXIMUM_COST:
            raise ExpressionError(f"expected less work in one expression, got '{brief(text)}'")

    def __call__(self, values: Values) -> Any:
        """The value for ``values``. Raises ExpressionError for a name without a value, a wrong type, a zero divisor."""
        try:
            return self.closure(values)
        except ExpressionError as error:
            raise ExpressionError(f"{error} in '{brief(self.text)}'") from error
        except KeyError as error:
            raise ExpressionError(f"unknown name {error.args[0]!r} in '{brief(self.text)}'") from error
        except (ArithmeticError, TypeError, ValueError, IndexError) as error:
            reason = "division by zero" if isinstance(error, ZeroDivisionError) else error
            raise ExpressionError(f"{reason} in '{brief(self.text)}'") from error


def evaluate(expression: str, values: Values) -> Any:
    """The value of ``expression``. Raises ExpressionError when it is not allowed, or fails for these values."""
    return compiled(expression)(values)


@lru_cache(maxsize=16_384)
def compiled(text: str) -> Expression:
    """Parse and check ``text`` once. Raises ExpressionError saying what is not understood or not allowed."""
    return Expression(text, parse(text))


class _Compiler:
    """Turns one tree into a closure, collecting the names it reads and its price."""

    def __init__(self, operation_price: int) -> None:
        self.names: set[str] = set()
        self.cost = 0
        self.nodes = 0
        self.local: set[str] = set()
        self.operation_price = operation_price

    def compile(self, node: ast.AST, depth: int) -> Closure:
        self.nodes += 1
        self.cost += 1
        if depth > MAXIMUM_DEPTH or self.nodes > MAXIMUM_NODES:
            raise ExpressionError(
                f"expected at most {MAXIMUM_DEPTH} levels and {MAXIMUM_NODES} parts in an expression, got more"
            )
        method = getattr(self, f"_{type(node).__name__.lower()}", None)
        if method is None:
            raise ExpressionError(f"{described(node)} is not allowed in a template")
        return method(node, depth + 1)

    def _constant(self, node: ast.Constant, depth: int) -> Closure:  # noqa: ARG002
        value = node.value
        if isinstance(value, str):
            if len(value) > LONGEST:
                raise ExpressionError(f"expected texts of at most {LONGEST} characters, got {len(value)}")
        elif isinstance(value, bool | int | float):
            value = exact(value)
        else:
            raise ExpressionError(f"expected numbers and texts, got {shown(value)}")
        return lambda _: value

    def _name(self, node: ast.Name, depth: int) -> Closure:  # noqa: ARG002
        name = node.id
        if name.startswith("_"):
            raise ExpressionError(
                f"name {name!r} is not allowed in a template (it starts with an underscore)"
            )
        if name not in self.local:
            self.names.add(name)
        if name not in LISTS:
            return operator.itemgetter(name)
        items = list(LISTS[name])
        return lambda values: values.get(name, items)

    def _binop(self, node: ast.BinOp, depth: int) -> Closure:
        left, right = self.compile(node.left, depth), self.compile(node.right, depth)
        self.cost += self.operation_price
        return operation(node.op, left, right)

    def _unaryop(self, node: ast.UnaryOp, depth: int) -> Closure:
        operand = self.compile(node.operand, depth)
        match node.op:
            case ast.USub():
                return lambda values: -operand(values)
            case ast.UAdd():
                return operand
            case ast.Not():
                return lambda values: not operand(values)
        raise ExpressionError(f"operator {type(node.op).__name__} is not allowed in a template")

    def _boolop(self, node: ast.BoolOp, depth: int) -> Closure:
        parts = [self.compile(part, depth) for part in node.values]
        if isinstance(node.op, ast.And):
            return lambda values: all(part(values) for part in parts)
        return lambda values: any(part(values) for part in parts)

    def _compare(self, node: ast.Compare, depth: int) -> Closure:
        first = self.compile(node.left, depth)
        rest = [
            (_COMPARISONS[type(kind)], self.compile(part, depth))
            for kind, part in zip(node.ops, node.comparators, strict=True)
        ]
        if len(rest) == 1:
            compare, second = rest[0]
            return lambda values: compare(first(values), second(values))

        def chain(values: Any) -> bool:
            left = first(values)
            for compare, part in rest:
                right = part(values)
                if not compare(left, right):
                    return False
                left = right
            return True

        return chain

    def _ifexp(self, node: ast.IfExp, depth: int) -> Closure:
        test, then, otherwise = (self.compile(part, depth) for part in (node.test, node.body, node.orelse))
        return lambda values: then(values) if test(values) else otherwise(values)

    def _list(self, node: ast.List | ast.Tuple | ast.Set, depth: int) -> Closure:
        parts = [self.compile(part, depth) for part in node.elts]
        kind = {ast.List: list, ast.Tuple: tuple, ast.Set: distinct}[type(node)]
        return lambda values: _within(kind([part(values) for part in parts]))

    _tuple = _set = _list

    def _subscript(self, node: ast.Subscript, depth: int) -> Closure:
        whole = self.compile(node.value, depth)
        if isinstance(node.slice, ast.Slice):
            bounds = [
                self.compile(part, depth) if part else None
                for part in (node.slice.lower, node.slice.upper, node.slice.step)
            ]
            return lambda values: whole(values)[slice(*(part and part(values) for part in bounds))]
        index = self.compile(node.slice, depth)

        def item(values: Any) -> Any:
            sequence, position = whole(values), index(values)
            if type(sequence) is Worded:  # a (words, number) pair, as it stands in the template
                return (sequence.text, sequence.value)[position]
            return sequence[position]

        return item

    def _listcomp(self, node: ast.ListComp | ast.GeneratorExp | ast.SetComp, depth: int) -> Closure:
        if self.local:
            raise ExpressionError("expected comprehensions without another one in them, got a nested one")
        before, loops = self.cost, []
        for loop in node.generators:
            source = self.compile(loop.iter, depth)
            targets = loop.target.elts if isinstance(loop.target, ast.Tuple) else [loop.target]
            names = tuple(target.id for target in targets if isinstance(target, ast.Name))
            if len(names) < len(targets) or loop.is_async:
                raise ExpressionError("expected comprehensions that loop over plain names, got another one")
            self.local |= set(names)
            loops.append(Loop(names, source, [self.compile(test, depth) for test in loop.ifs]))
        element = self.compile(node.elt, depth)
        self.local = set()
        made = comprehension(loops, element, self.cost - before)
        self.cost += LONGEST
        return (lambda values: distinct(made(values))) if isinstance(node, ast.SetComp) else made

    _generatorexp = _setcomp = _listcomp

    def _dict(self, node: ast.Dict, depth: int) -> Closure:
        if any(key is None for key in node.keys):
            raise ExpressionError("expected keys and values in a dictionary, got **")
        keys = [self.compile(key, depth) for key in node.keys if key is not None]
        parts = [self.compile(part, depth) for part in node.values]
        return lambda values: _within(
            {key(values): part(values) for key, part in zip(keys, parts, strict=True)}
        )

    def _joinedstr(self, node: ast.JoinedStr, depth: int) -> Closure:
        parts = [self.compile(part, depth) for part in node.values]
        return lambda values: bounded("".join([part(values) for part in parts]))

    def _formattedvalue(self, node: ast.FormattedValue, depth: int) -> Closure:
        if node.conversion != -1:
            raise ExpressionError("expected f-strings without '!', got one with it")
        value = self.compile(node.value, depth)
        shape = self.compile(node.format_spec, depth) if node.format_spec else lambda _: ""
        return lambda values: formatted(value(values), shape(values))

    def _attribute(self, node: ast.Attribute, depth: int) -> Closure:
        if node.attr not in PROPERTIES:
            raise ExpressionError(f"{described(node)} is not allowed in a template")
        read, value = PROPERTIES[node.attr], self.compile(node.value, depth)
        return lambda values: read(value(values))

    def _call(self, node: ast.Call, depth: int) -> Closure:
        name, function, price = _called(node)
        if node.keywords or any(isinstance(argument, ast.Starred) for argument in node.args):
            raise ExpressionError(f"expected plain arguments for {name}(), got named or starred ones")
        self.cost += price
        parts = node.args
        if isinstance(node.func, ast.Attribute) and name.startswith("."):
            parts = [node.func.value, *parts]
        arguments = [self.compile(part, depth) for part in parts]
        if len(arguments) == 1:
            (only,) = arguments
            return lambda values: function(only(values))
        return lambda values: function(*[argument(values) for argument in arguments])


def _called(node: ast.Call) -> tuple[str, Closure, int]:
    """(name, function, price) of what is called; a method's name begins with a dot."""
    function = node.func
    name = dotted(function) if is_dotted(function) else ""
    if name in FUNCTIONS:
        return (name, *FUNCTIONS[name])
    if isinstance(function, ast.Attribute) and function.attr in METHODS and name not in INIT_ONLY:
        return f".{function.attr}", METHODS[function.attr], LISTING
    if name in INIT_ONLY:
        raise ExpressionError(f"{name}() is only allowed in #init lines")
    near = difflib.get_close_matches(name or dotted(function), FUNCTIONS, n=1)
    raise ExpressionError(f"unknown function {name}()" + (f"; did you mean {near[0]}()?" if near else ""))


def _uses_arrays(tree: ast.expr) -> bool:
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return any(is_dotted(call) and dotted(call) in ARRAYS for call in calls)


def _within(items: Any) -> Any:
    held = items.values() if isinstance(items, dict) else items
    if any(isinstance(item, list | tuple | dict) for item in held) and bulk(items) > LONGEST:
        raise ExpressionError(f"expected at most {LONGEST} items in a list of lists, got more")
    return items
