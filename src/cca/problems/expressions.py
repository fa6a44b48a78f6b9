"""A whitelisting evaluator for the expressions of templates. Text from a file is never handed to ``eval``.

An expression is parsed once by ``ast`` in mode "eval", every node is checked against what is listed here, and the
tree becomes one closure over a dict of values; calling it costs about 0.1 microseconds a node. There is no attribute
access at all: a dotted name such as ``np.arange`` is looked up whole among the known functions and is refused
anywhere else. Length, nesting, powers, repetitions and sizes are bounded, so no expression takes long.
"""

from __future__ import annotations

import ast
import difflib
import operator
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from cca.problems.comprehension import comprehension
from cca.problems.functions import FUNCTIONS, INIT_ONLY, bulk, distinct, divide, multiply, power
from cca.problems.quantities import LARGEST, LONGEST, ExpressionError, Worded, exact, shown
from cca.problems.syntax import MAXIMUM_COST, MAXIMUM_DEPTH, MAXIMUM_NODES, brief, described, dotted, parse
from cca.problems.vocabulary import LISTS

Values = Mapping[str, Any]
Closure = Callable[[Any], Any]

_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
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
        compiler = _Compiler()
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

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.cost = 0
        self.nodes = 0
        self.local: str | None = None

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
        if name != self.local:
            self.names.add(name)
        if name not in LISTS:
            return operator.itemgetter(name)
        items = list(LISTS[name])
        return lambda values: values.get(name, items)

    def _binop(self, node: ast.BinOp, depth: int) -> Closure:
        left, right = self.compile(node.left, depth), self.compile(node.right, depth)
        match node.op:
            case ast.Add():

                def add(values: Any) -> Any:
                    result = left(values) + right(values)
                    return result if type(result) is int else _bounded(result)

                return add
            case ast.Sub():

                def subtract(values: Any) -> Any:
                    result = left(values) - right(values)
                    return result if type(result) is int else exact(result)

                return subtract
            case ast.Mult():

                def product(values: Any) -> Any:
                    one, other = left(values), right(values)
                    if type(one) is int and type(other) is int:
                        result = one * other
                        if -LARGEST < result < LARGEST:
                            return result
                    return multiply(one, other)

                return product
            case ast.Div():

                def quotient(values: Any) -> Any:
                    one, other = left(values), right(values)
                    if type(one) is int and type(other) is int and not one % other:
                        return one // other
                    return divide(one, other)

                return quotient
            case ast.FloorDiv():
                return lambda values: exact(left(values) // right(values))
            case ast.Mod():

                def remainder(values: Any) -> Any:
                    one = left(values)
                    if isinstance(one, str):
                        raise ExpressionError("expected a number before '%', got a text")
                    return exact(one % right(values))

                return remainder
            case ast.Pow():
                return lambda values: power(left(values), right(values))
        raise ExpressionError(f"operator {type(node.op).__name__} is not allowed in a template")

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
        for kind in node.ops:
            if type(kind) not in _COMPARISONS:
                raise ExpressionError(
                    f"comparison {type(kind).__name__} is not allowed in a template; use =="
                )
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

    def _listcomp(self, node: ast.ListComp | ast.GeneratorExp, depth: int) -> Closure:
        (loop, *more) = node.generators
        if more or self.local is not None or not isinstance(loop.target, ast.Name) or loop.is_async:
            raise ExpressionError("expected comprehensions with one loop over one name, got a nested one")
        source = self.compile(loop.iter, depth)
        name = self.local = loop.target.id
        before = self.cost
        element = self.compile(node.elt, depth)
        tests = [self.compile(test, depth) for test in loop.ifs]
        price = self.cost - before
        self.local = None
        self.cost += LONGEST

        return comprehension(source, name, tests, element, price)

    _generatorexp = _listcomp

    def _call(self, node: ast.Call, depth: int) -> Closure:
        name = dotted(node.func)
        if node.keywords or any(isinstance(argument, ast.Starred) for argument in node.args):
            raise ExpressionError(f"expected plain arguments for {name}(), got named or starred ones")
        if name not in FUNCTIONS:
            if name in INIT_ONLY:
                raise ExpressionError(f"{name}() is only allowed in #init lines")
            near = difflib.get_close_matches(name, FUNCTIONS, n=1)
            raise ExpressionError(
                f"unknown function {name}()" + (f"; did you mean {near[0]}()?" if near else "")
            )
        function, price = FUNCTIONS[name]
        self.cost += price
        arguments = [self.compile(argument, depth) for argument in node.args]
        if len(arguments) == 1:
            (only,) = arguments
            return lambda values: function(only(values))
        return lambda values: function(*[argument(values) for argument in arguments])


def _bounded(value: Any) -> Any:
    if isinstance(value, str | list | tuple):
        if len(value) > LONGEST:
            raise ExpressionError(f"expected at most {LONGEST} items or characters, got {len(value)}")
        return value
    return exact(value)


def _within(items: Any) -> Any:
    if any(isinstance(item, list | tuple) for item in items) and bulk(items) > LONGEST:
        raise ExpressionError(f"expected at most {LONGEST} items in a list of lists, got more")
    return items
