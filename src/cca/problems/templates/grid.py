"""Many combinations at once: the last variables of a search as one grid of float64 arrays.

A condition is compiled a second time, to numpy operations. Floats cannot decide ``is_int`` or ``==``, so the grid only
leaves out what certainly fails; what is left is tested exactly, one combination at a time. Truth is therefore a pair
of arrays, (may be true, may be false). A condition that uses what is not listed here leaves nothing out.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from cca.problems.templates.exact_numbers import Worded, number
from cca.problems.templates.expressions import Expression
from cca.problems.templates.plan import Step

LARGEST_GRID = 20_000
"""Combinations of one grid: an array operation on them takes a few microseconds."""

Arrays = Mapping[str, Any]
Numbers = Callable[
    [Arrays, Mapping[str, Any]], Any
]  # (grid arrays, exact values of the other names) -> array
Truth = Callable[[Arrays, Mapping[str, Any]], tuple[Any, Any]]

_DIGITS, _NOISE = 1e-11, 1e-8
"""Two numbers within this (relative, absolute) distance may be equal."""


class _Unsupported(Exception):
    pass


class Grid:
    """The last steps of a search. ``survivors`` are the combinations that no condition certainly excludes."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self.steps = [step for step in steps if step.reckoned is None]
        self.reckoned = [step for step in steps if step.reckoned is not None]
        self.tests = [test for step in steps for test in step.tests]
        self.shape = tuple(step.size for step in self.steps)
        self.size = math.prod(self.shape)
        axes = [
            np.array([float(number(item, "a grid")) for item in step.domain or ()]) for step in self.steps
        ]
        self._arrays: dict[str, Any] = {}
        for position, (step, axis) in enumerate(zip(self.steps, axes, strict=True)):
            sides = [1] * len(axes)
            sides[position] = len(axis)
            self._arrays[step.targets[0]] = axis.reshape(sides)  # broadcast over the other axes
        names = set(self._arrays) | {step.targets[0] for step in self.reckoned}
        self._sides = [(step, self._side(step, names)) for step in self.reckoned]
        compiled = [_truth_or_none(test.tree, names) for test in self.tests]
        self._truths = [truth for truth in compiled if truth is not None]
        self.cost = self.size * (len(self._truths) + 1) // 8 + 500

    @staticmethod
    def _side(step: Step, names: set[str]) -> tuple[Numbers | None, Any]:
        assert step.reckoned is not None
        domain = np.array(sorted(float(number(item, "a grid")) for item in step.domain or ()))
        try:
            return _numbers(step.reckoned.tree, names), domain
        except _Unsupported:
            return None, domain

    def survivors(self, values: Mapping[str, Any]) -> Any:
        """Flat indices (int64) of combinations to test exactly, given the ``values`` of the earlier steps."""
        arrays = dict(self._arrays)
        alive = np.ones(self.shape, dtype=bool)
        with np.errstate(all="ignore"):
            for step, (side, domain) in self._sides:
                if side is None:
                    return np.arange(self.size)
                wanted = np.asarray(side(arrays, values), dtype=float)
                near = np.minimum(np.searchsorted(domain, wanted - _slack(wanted)), len(domain) - 1)
                alive &= np.abs(domain[near] - wanted) <= 2 * _slack(wanted)
                arrays[step.targets[0]] = wanted
            for truth in self._truths:
                alive &= truth(arrays, values)[0]
        return np.flatnonzero(alive)

    def assign(self, index: int, values: dict[str, Any]) -> None:
        """Write the exact items of combination ``index`` into ``values`` (the reckoned ones are not among them)."""
        for step in reversed(self.steps):
            index, position = divmod(index, step.size)
            values[step.targets[0]] = step.domain[position]  # type: ignore[index]


def griddable(step: Step) -> bool:
    """Whether a step can be part of a grid: one target with a fixed domain of numbers."""
    if step.draw.kind != "each" or step.domain is None or step.size > LARGEST_GRID:
        return False
    return all(isinstance(item, int | Fraction | Worded) for item in step.domain)


def _slack(value: Any) -> Any:
    return _NOISE + _DIGITS * np.abs(value)


def _truth_or_none(tree: ast.expr, names: set[str]) -> Truth | None:
    try:
        return _truth(tree, names)
    except _Unsupported:
        return None


def _constant(node: ast.expr, names: set[str]) -> Expression | None:
    """The exact expression of a subtree that reads no grid variable."""
    if any(isinstance(part, ast.Name) and part.id in names for part in ast.walk(node)):
        return None
    return Expression("", node)


def _numbers(node: ast.expr, names: set[str]) -> Numbers:
    constant = _constant(node, names)
    if constant is not None:
        return lambda arrays, values: float(number(constant.closure(values), "a grid"))  # noqa: ARG005
    match node:
        case ast.Name(id=name):
            return lambda arrays, values: arrays[name]  # noqa: ARG005
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            operator, one, other = _OPERATORS[type(op)], _numbers(left, names), _numbers(right, names)
            return lambda arrays, values: operator(one(arrays, values), other(arrays, values))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            inner = _numbers(operand, names)
            return lambda arrays, values: -inner(arrays, values)
        case ast.IfExp(test=test, body=body, orelse=orelse):
            decided = _constant(test, names)
            then, otherwise = _numbers(body, names), _numbers(orelse, names)
            if decided is not None:
                return lambda arrays, values: (then if decided.closure(values) else otherwise)(arrays, values)
        case ast.Call(func=ast.Name(id=name), args=arguments) if (name, len(arguments)) in _CALLS:
            call, inners = _CALLS[name, len(arguments)], [_numbers(argument, names) for argument in arguments]
            return lambda arrays, values: call(*[inner(arrays, values) for inner in inners])
    raise _Unsupported


def _truth(node: ast.expr, names: set[str]) -> Truth:
    constant = _constant(node, names)
    if constant is not None:

        def fixed(arrays: Arrays, values: Mapping[str, Any]) -> tuple[Any, Any]:  # noqa: ARG001
            holds = bool(constant.closure(values))
            return holds, not holds

        return fixed
    match node:
        case ast.Compare(left=left, ops=ops, comparators=comparators):
            sides = [_numbers(side, names) for side in (left, *comparators)]
            if any(type(op) not in _COMPARISONS for op in ops):
                raise _Unsupported
            comparisons = [_COMPARISONS[type(op)] for op in ops]

            def chain(arrays: Arrays, values: Mapping[str, Any]) -> tuple[Any, Any]:
                found = [side(arrays, values) for side in sides]
                pairs = [compare(found[place], found[place + 1]) for place, compare in enumerate(comparisons)]
                return _all([pair[0] for pair in pairs]), _any([pair[1] for pair in pairs])

            return chain
        case ast.BoolOp(op=op, values=parts):
            truths = [_truth(part, names) for part in parts]
            true, false = (_all, _any) if isinstance(op, ast.And) else (_any, _all)

            def joined(arrays: Arrays, values: Mapping[str, Any]) -> tuple[Any, Any]:
                pairs = [truth(arrays, values) for truth in truths]
                return true([pair[0] for pair in pairs]), false([pair[1] for pair in pairs])

            return joined
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            inner = _truth(operand, names)
            return lambda arrays, values: inner(arrays, values)[::-1]  # type: ignore[return-value]
        case ast.Call(func=ast.Name(id="is_int"), args=[argument]):
            whole = _numbers(argument, names)
            return lambda arrays, values: (_whole(whole(arrays, values)), True)
        case ast.Call(func=ast.Name(id="divides"), args=[one, other]):
            top, bottom = _numbers(one, names), _numbers(other, names)
            return lambda arrays, values: (_whole(_ratio(top(arrays, values), bottom(arrays, values))), True)
    raise _Unsupported


def _all(parts: list[Any]) -> Any:
    return np.logical_and.reduce(np.broadcast_arrays(*parts)) if len(parts) > 1 else parts[0]


def _any(parts: list[Any]) -> Any:
    return np.logical_or.reduce(np.broadcast_arrays(*parts)) if len(parts) > 1 else parts[0]


def _ratio(top: Any, bottom: Any) -> Any:
    return np.divide(top, bottom)


def _whole(value: Any) -> Any:
    return np.abs(value - np.rint(value)) <= _slack(value)


def _floor(value: Any) -> Any:
    return np.floor(value + _slack(value))


def _towards_zero(value: Any) -> Any:
    return np.sign(value) * _floor(np.abs(value))


def _near(one: Any, other: Any) -> Any:
    return np.abs(one - other) <= _slack(one) + _slack(other)


_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: _ratio,
    ast.FloorDiv: lambda one, other: _floor(_ratio(one, other)),
    ast.Mod: lambda one, other: one - other * _floor(_ratio(one, other)),
}
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], tuple[Any, Any]]] = {
    ast.Eq: lambda one, other: (_near(one, other), True),
    ast.NotEq: lambda one, other: (True, _near(one, other)),
    ast.Lt: lambda one, other: (one < other + _slack(other), one >= other - _slack(other)),
    ast.LtE: lambda one, other: (one <= other + _slack(other), one > other - _slack(other)),
    ast.Gt: lambda one, other: (one > other - _slack(other), one <= other + _slack(other)),
    ast.GtE: lambda one, other: (one >= other - _slack(other), one < other + _slack(other)),
}
_CALLS: dict[tuple[str, int], Callable[..., Any]] = {
    ("int", 1): _towards_zero,
    ("float", 1): lambda value: value,
    ("Fraction", 1): lambda value: value,
    ("Fraction", 2): _ratio,
    ("round", 1): lambda value: np.sign(value) * _floor(np.abs(value) + 0.5),
    ("abs", 1): np.abs,
    ("min", 2): np.minimum,
    ("max", 2): np.maximum,
}
