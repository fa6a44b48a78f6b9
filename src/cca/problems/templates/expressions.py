"""A whitelisting evaluator for the expressions of templates. Text from a file never reaches ``eval``.

``ast`` parses an expression once in mode "eval", every node is checked against the methods of `Expression`, and the
tree becomes one closure over a dict of values; a node costs about 0.1 microseconds. Attributes are never read: a
dotted name such as ``np.arange`` is looked up whole among the known functions. Length, nesting, powers, repetitions
and sizes are bounded, so no expression takes long.
"""

from __future__ import annotations

import ast
import operator
import warnings
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from typing import Any

from cca.errors import suggestion
from cca.problems.templates.exact_numbers import (
    LARGEST,
    LONGEST,
    ExpressionError,
    Number,
    Worded,
    bounded,
    brief,
    bulk,
    exact,
    number,
    shown,
)
from cca.problems.templates.vocabulary import FUNCTIONS, LISTS, Function

Values = Mapping[str, Any]
Closure = Callable[[Any], Any]

MAXIMUM_TEXT = 5_000
MAXIMUM_DEPTH = 40
MAXIMUM_NODES = 1_500
MAXIMUM_COST = 50_000

SAMPLES = ("sample", "sample_sequential")
"""Functions that only the sampler can call (`draws.Draw`)."""

# Typographic and mathematical signs that writers of templates paste in.
_SPELLINGS = str.maketrans({
    "“": '"', "”": '"', "‘": "'", "’": "'", "×": "*", "÷": "/", "−": "-", "–": "-", "≤": "<=", "≥": ">=", "≠": "!=",
})  # fmt: skip
_REPEATED = frozenset((str, list, tuple))


def _joined(one: Any, other: Any) -> Any:
    if type(one) is not type(other):
        return number(one, "a sum") + number(other, "a sum")  # raises: one of them is no number
    return bounded(one + other)


def _repeated(one: Any, other: Any) -> Any:
    items, count = (one, other) if type(one) in _REPEATED else (other, one)
    times = number(count, "a repetition")
    if not isinstance(times, int) or max(bulk(items), 1) * times > LONGEST:
        raise ExpressionError(f"expected at most {LONGEST} items or characters, got a repetition of {shown(count)}")
    return items * times


def _divided(one: Number, other: Number) -> Number:
    whole = isinstance(one, int) and isinstance(other, int) and one % other == 0
    return one // other if whole else Fraction(one, other)


def _power(base: Number, exponent: Number) -> Number:
    digits = max(abs(base.numerator).bit_length(), base.denominator.bit_length()) - 1
    if not isinstance(exponent, int) or abs(exponent) > 64 or digits * abs(exponent) > LARGEST.bit_length():
        raise ExpressionError(f"expected a whole exponent and at most 1e18, got {shown(base)} ** {shown(exponent)}")
    return Fraction(base) ** exponent


def _arithmetic(
    what: str, operate: Callable[[Any, Any], Any], sequences: Callable[[Any, Any], Any] | None = None
) -> Callable[[Any, Any], Any]:
    """``operate`` on the numbers in two values, with an exact result; ``sequences`` is for lists and texts."""

    def compute(one: Any, other: Any) -> Any:
        if type(one) is not int or type(other) is not int:
            if sequences is not None and (type(one) in _REPEATED or type(other) in _REPEATED):
                return sequences(one, other)
            one, other = number(one, what), number(other, what)
        result = operate(one, other)
        return result if type(result) is int and -LARGEST <= result <= LARGEST else exact(result)

    return compute


def _within(item: Any, items: Any) -> bool:
    """``item in items``; Python would go through a range for what is no ``int``."""
    if not isinstance(items, range):
        return item in items
    item = item.value if isinstance(item, Worded) else item
    return isinstance(item, int) and item in items


_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: _arithmetic("a sum", operator.add, _joined),
    ast.Sub: _arithmetic("a difference", operator.sub),
    ast.Mult: _arithmetic("a product", operator.mul, _repeated),
    ast.Div: _arithmetic("a division", _divided),
    ast.FloorDiv: _arithmetic("a division", operator.floordiv),
    ast.Mod: _arithmetic("a remainder", operator.mod),
    ast.Pow: _arithmetic("a power", _power),
}
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Is: operator.eq,  # "n is 3": what its writer means
    ast.IsNot: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: _within,
    ast.NotIn: lambda left, right: not _within(left, right),
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.USub: lambda value: -number(value, "a minus sign"),
    ast.UAdd: lambda value: value,
    ast.Not: operator.not_,
}


class Expression:
    """A checked expression: call it with values. ``names`` are those it reads, ``cost`` a rough price of one call."""

    def __init__(self, text: str, tree: ast.expr, functions: Mapping[str, Function] = FUNCTIONS) -> None:
        self.text = text
        self.tree = tree
        self.names: frozenset[str] = frozenset()
        self.cost = self._nodes = 0
        self._functions = functions
        self.closure = self._compile(tree, 0)
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

    def _compile(self, node: ast.AST, depth: int) -> Closure:
        self._nodes += 1
        self.cost += 1
        if depth > MAXIMUM_DEPTH or self._nodes > MAXIMUM_NODES:
            raise ExpressionError(
                f"expected at most {MAXIMUM_DEPTH} levels and {MAXIMUM_NODES} parts in an expression, got more"
            )
        method = getattr(self, f"_{type(node).__name__.lower()}", None)
        if method is None:
            raise ExpressionError(f"{_described(node)} is not allowed in a template")
        return method(node, depth + 1)

    def _constant(self, node: ast.Constant, depth: int) -> Closure:  # noqa: ARG002
        value = node.value
        if not isinstance(value, str | bool | int | float):
            raise ExpressionError(f"expected numbers and texts, got {shown(value)}")
        value = exact(value)
        return lambda _: value

    def _name(self, node: ast.Name, depth: int) -> Closure:  # noqa: ARG002
        name = node.id
        if name.startswith("_"):
            raise ExpressionError(f"name {name!r} is not allowed in a template (it starts with an underscore)")
        self.names |= {name}
        if name not in LISTS:
            return operator.itemgetter(name)
        items = list(LISTS[name])
        return lambda values: values.get(name, items)

    def _binop(self, node: ast.BinOp, depth: int) -> Closure:
        left, right = self._compile(node.left, depth), self._compile(node.right, depth)
        operate = _allowed(_ARITHMETIC, node.op)
        return lambda values: operate(left(values), right(values))

    def _unaryop(self, node: ast.UnaryOp, depth: int) -> Closure:
        operand, operate = self._compile(node.operand, depth), _allowed(_UNARY, node.op)
        return lambda values: operate(operand(values))

    def _boolop(self, node: ast.BoolOp, depth: int) -> Closure:
        parts = [self._compile(part, depth) for part in node.values]
        decide = all if isinstance(node.op, ast.And) else any
        return lambda values: decide(part(values) for part in parts)

    def _compare(self, node: ast.Compare, depth: int) -> Closure:
        sides = [self._compile(side, depth) for side in (node.left, *node.comparators)]
        tests = [_COMPARISONS[type(kind)] for kind in node.ops]
        if len(tests) == 1:
            (first, second), (test,) = sides, tests
            return lambda values: test(first(values), second(values))

        def chain(values: Any) -> bool:
            found = [side(values) for side in sides]
            return all(test(*pair) for test, pair in zip(tests, pairwise(found), strict=True))

        return chain

    def _ifexp(self, node: ast.IfExp, depth: int) -> Closure:
        test, then, otherwise = (self._compile(part, depth) for part in (node.test, node.body, node.orelse))
        return lambda values: then(values) if test(values) else otherwise(values)

    def _list(self, node: ast.List | ast.Tuple, depth: int) -> Closure:
        parts = [self._compile(part, depth) for part in node.elts]
        kind = list if isinstance(node, ast.List) else tuple
        return lambda values: bounded(kind([part(values) for part in parts]))

    _tuple = _list

    def _set(self, node: ast.Set, depth: int) -> Closure:
        if len(node.elts) != 1:
            raise ExpressionError("a set is not allowed in a template")
        return self._compile(node.elts[0], depth)  # "{n} + {k}": a slot inside a slot

    def _subscript(self, node: ast.Subscript, depth: int) -> Closure:
        whole, index = self._compile(node.value, depth), node.slice
        if isinstance(index, ast.Slice):
            parts = (index.lower, index.upper, index.step)
            bounds = [self._compile(part, depth) if part else None for part in parts]
            return lambda values: whole(values)[slice(*(part and part(values) for part in bounds))]
        place = self._compile(index, depth)

        def item(values: Any) -> Any:
            sequence, position = whole(values), place(values)
            if type(sequence) is Worded:  # a (words, number) pair, as it stands in the template
                return (sequence.text, sequence.value)[position]
            return sequence[position]

        return item

    def _call(self, node: ast.Call, depth: int) -> Closure:
        name = dotted(node.func)
        if not name:
            raise ExpressionError(f"expected a call of a known function, got a call of {_described(node.func)}")
        if name not in self._functions:
            sampled = f"{name}() is only allowed in #init lines, and there once in a line"
            unknown = f"unknown function {brief(name)!r}{suggestion(name, self._functions)}"
            raise ExpressionError(sampled if name in SAMPLES else unknown)
        if node.keywords or any(isinstance(argument, ast.Starred) for argument in node.args):
            raise ExpressionError(f"expected plain arguments for {name}(), got named or starred ones")
        function, price = self._functions[name]
        self.cost += price
        arguments = [self._compile(part, depth) for part in node.args]
        if len(arguments) == 1:
            (only,) = arguments
            return lambda values: function(only(values))
        return lambda values: function(*[argument(values) for argument in arguments])


def evaluate(expression: str, values: Values) -> Any:
    """The value of ``expression``. Raises ExpressionError when it is not allowed, or fails for these values."""
    return compiled(expression)(values)


@lru_cache(maxsize=16_384)
def compiled(text: str) -> Expression:
    """Parse and check ``text`` once. Raises ExpressionError saying what is not understood or not allowed."""
    return Expression(text, parse(text))


def parse(text: str) -> ast.expr:
    """The syntax tree of ``text``, not checked yet. Raises ExpressionError when it is too long or cannot be read."""
    if len(text) > MAXIMUM_TEXT:
        raise ExpressionError(f"expected an expression of at most {MAXIMUM_TEXT} characters, got {len(text)}")
    if text.isidentifier() and text not in ("True", "False", "None"):
        return ast.Name(text, ast.Load())  # a variable may be called "class" or "from"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python warns of "1if x"; whoever wrote that meant it
            return ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        respelled = text.translate(_SPELLINGS)
        if respelled != text:
            return parse(respelled)
        raise ExpressionError(f"cannot read '{brief(text)}' as an expression ({error.msg})") from error
    except (ValueError, MemoryError, RecursionError) as error:
        raise ExpressionError(f"cannot read '{brief(text)}' as an expression (too deep or malformed)") from error


def dotted(node: ast.expr) -> str:
    """``np.random.randint`` as one name; empty for anything but a name."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""


def _allowed(table: Mapping[type, Callable[..., Any]], sign: ast.operator | ast.unaryop) -> Callable[..., Any]:
    if type(sign) not in table:
        raise ExpressionError(f"operator {type(sign).__name__} is not allowed in a template")
    return table[type(sign)]


def _described(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"attribute access ('.{node.attr[:40]}')"
    if isinstance(node, ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
        return "a comprehension"
    return "an f-string" if isinstance(node, ast.JoinedStr) else f"a {type(node).__name__.lower()}"
