"""Faults of an instance: its solution disagrees with its answer, a worked step is wrong, a number is cut down.

Published templates have such faults. Most show for some values only: `Template.sample` leaves those instances out, and
`cca task check` names the fault.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from cca.problems.templates.exact_numbers import ExpressionError, Number, parsed_number, written
from cca.problems.templates.expressions import Expression, evaluate

LONGEST_LINE = 1_000
"""Characters of the longest line of a worked solution that is judged."""

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_TOKEN = re.compile(
    r"(?P<number>(?:\d+/\d+(?![\d/]))|\d+(?:,\d{3})*(?:\.\d+)?)|(?P<operator>[-+*/×÷()]|(?<=\s)x(?=\s))"
    r"|(?P<equals>=)|(?P<unit>[A-Za-z]+(?:/[A-Za-z]+)*)|(?P<blank>[\s$€£])|(?P<other>.)"
)
_NEGATIVE = re.compile(r"(?:\A|[=*/+(×÷#]\s?|\s-\s|[A-Za-z]\s|(?:\A|\s)[$€£])(?:-\d|-[$€£]\d)")


def disagreement(solution: str, answer: str) -> str:
    """One line on why a worked solution does not end with the answer; empty when it does."""
    if "/" in answer:
        return f"the answer {answer} is not a whole or decimal number"
    if solution.endswith(f"\n#### {answer}"):
        return ""
    found = last_number(solution)
    if found is None:
        return "the worked solution has no number"
    if found == parsed_number(answer):
        return ""
    return f"the answer is {answer} but the worked solution ends with {written(found)}"


def last_number(text: str) -> Number | None:
    found = _NUMBER.findall(text)
    return parsed_number(found[-1]) if found else None


def negative(solution: str) -> str:
    """A negative number in a worked solution ("12 - -3 players"), or an empty text."""
    found = _NEGATIVE.search(solution)
    return " ".join(solution[max(0, found.start() - 12) : found.end() + 4].split()) if found else ""


def wrong_step(solution: str) -> str:
    """The first equation between plain numbers that does not hold, or an empty text.

    A unit after a number is ignored ("3 bags * 4 kg = 12"), rounded decimals are accepted ("1 / 3 = 0.33"), and
    anything but plain arithmetic (percentages, unknowns) is not judged.
    """
    for line in solution.split("\n"):
        for left, right in _equations(line) if "=" in line and len(line) <= LONGEST_LINE else ():
            if not _equal(left, right):
                return f"{left} = {right}"
    return ""


def untruncated(answer: Expression) -> Expression | None:
    """The answer without ``int()`` and with ``/`` for ``//``; None when nothing changes.

    Where its value differs, the answer was cut down to a whole number, which no question of the kind asks for.
    """
    stripper = _Stripper()
    tree = stripper.visit(ast.parse(ast.unparse(answer.tree), mode="eval").body)
    return Expression(answer.text, tree) if stripper.changed else None


class _Stripper(ast.NodeTransformer):
    changed = False

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id == "int" and len(node.args) == 1:
            self.changed = True
            return ast.Call(ast.Name("float", ast.Load()), node.args, [])
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.op, ast.FloorDiv):
            self.changed = True
            return ast.BinOp(node.left, ast.Div(), node.right)
        return node


def _equations(line: str) -> list[tuple[str, str]]:
    """(left, right) of every equals sign of a line that stands between plain arithmetic."""
    sides: list[list[tuple[str, str]]] = [[]]
    for found in _TOKEN.finditer(line):
        if found.lastgroup == "equals":
            sides.append([])
        elif found.lastgroup != "blank":
            sides[-1].append((str(found.lastgroup), found.group()))
    runs = [_runs(side) for side in sides]
    pairs = [(left[-1], right[0]) for left, right in pairwise(runs)]
    judged = [(left, right) for left, right in pairs if not (left.measured and len(left.parts) == 1)]
    equations = [(_source(left.parts), _source(right.parts)) for left, right in judged]
    return [(left, right) for left, right in equations if left and right]


@dataclass
class _Run:
    """A stretch of arithmetic. ``measured`` is True with units: then a lone number need not equal the other side."""

    parts: list[str]
    measured: bool = False


def _runs(tokens: list[tuple[str, str]]) -> list[_Run]:
    """The stretches of arithmetic in one side, broken by words, other signs and numbers without a sign between."""
    runs = [_Run([])]
    for place, (kind, text) in enumerate(tokens):
        run = runs[-1]
        counted = bool(run.parts) and run.parts[-1][-1].isdigit()
        if kind == "unit" and counted and _next(tokens, place) in ("operator", "end"):
            run.measured = True  # "4 hours = 240 minutes" holds, though 4 is not 240
        elif kind == "number" and counted and "/" in text:
            run.parts[-1] = f"({run.parts[-1]}+{text})"  # a mixed number, "16 1/4"
        elif kind == "number" and counted:
            runs.append(_Run([text]))
        elif kind in ("number", "operator"):
            run.parts.append(text)
        else:
            if text == "%":
                run.parts.clear()
            runs.append(_Run([]))
    if len(runs) > 1 and runs[-1].parts[:1] == ["-"]:
        runs[-1].parts.clear()
    return runs


def _next(tokens: list[tuple[str, str]], place: int) -> str:
    """The kind of token after a unit of up to three words: "operator", "end" (of the side) or "other"."""
    following = [kind for kind, _ in tokens[place + 1 : place + 4]]
    while following[:1] == ["unit"]:
        following.pop(0)
    return following[0] if following else "end" if place + 4 > len(tokens) else "other"


def _source(run: list[str]) -> str:
    """A stretch as an expression; empty unless it holds together (balanced, no sign left over)."""
    if not run or run[0] in "+*/×÷x)" or not (run[-1][-1].isdigit() or run[-1][-1] == ")"):
        return ""
    if run.count("(") != run.count(")"):
        return ""
    return " ".join(f"({text})" if "/" in text[1:] else text.replace(",", "") for text in run)


def _equal(left: str, right: str) -> bool:
    try:
        one, other = (evaluate(side.replace(" x ", " * "), {}) for side in (left, right))
    except ExpressionError:
        return True
    places = [len(side.partition(".")[2]) for side in (left, right) if re.fullmatch(r"-?\d*\.\d+", side)]
    return abs(one - other) <= (Fraction(1, 10 ** max(places)) if places else 0)
