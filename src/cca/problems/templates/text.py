"""Annotated text to plain text: ``{slot,default}`` and ``{expression}`` filled in, numbers as a person writes them.

A slot reads words where a reader reads ("half of the eggs") and digits where a reader reckons: beside an operator,
inside ``<<...>>`` and on the ``####`` line. Calculator annotations ``<<3*4=12>>`` are left out of the plain text.
A slot that opens a sentence is capitalised; cents are written with two digits after a currency sign.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import lru_cache
from typing import Any

from cca.problems.templates.exact_numbers import ExpressionError, Worded, written
from cca.problems.templates.expressions import Expression, compiled
from cca.problems.templates.formats import SHAPE, formatted
from cca.problems.templates.syntax import undollared

MAXIMUM_TEXT = 20_000
MAXIMUM_SLOTS = 2_000
MAXIMUM_COST = 200_000

_BRACE = re.compile(r"[{}]")
_DOUBLED = re.compile(r"\s*\{([^{}]*)\}\s*")
_FORMAT = re.compile(rf"(.*):({SHAPE.pattern})", re.DOTALL)
_OPENS_SENTENCE = re.compile(r"(?:\A|[.!?][\"”')]*\s|\n)\s*\Z")
_OPERATOR_BEFORE = re.compile(r"(?:[*/+=÷×<>(^]|(?<=\s)[-–−x]|(?<=\d)-)\s*(?:[$€£])?\Z")
_OPERATOR_AFTER = re.compile(r"\A\s*(?:[*/+=÷×<>^%]|[-–−x](?=\s)|-(?=\d))")
_CALCULATOR = re.compile(r"<<(.{0,400}?)>>")
_LEFT_OUT = re.compile(r"=[ ]*<<.{0,400}?>>[ ]*=(?!=)|(?<=[ ])<<.{0,400}?>>[ ]|<<.{0,400}?>>")
_CENTS = re.compile(r"([$€£]\d+\.\d)(?![\d/])")


class Text:
    """An annotated text, parsed once. ``render`` fills it in; ``names`` are those its slots read."""

    def __init__(self, annotated: str) -> None:
        """Raises ExpressionError naming the slot that cannot be read."""
        if len(annotated) > MAXIMUM_TEXT:
            raise ExpressionError(f"expected at most {MAXIMUM_TEXT} characters of text, got {len(annotated)}")
        self.calculators: list[str] = _CALCULATOR.findall(annotated)
        plain = _LEFT_OUT.sub(lambda found: found.group()[: found.group().startswith("=")], annotated)
        self._expressions: list[Expression] = []
        self.defaults: dict[str, str] = {}
        self._indices: dict[str, int] = {}
        self._parts: list[str | tuple[int, Callable[[Any], str]]] = []
        self._split(re.sub(r"(?<=\S) {2,}(?=\S)", " ", plain))
        if sum(expression.cost for expression in self._expressions) > MAXIMUM_COST:
            raise ExpressionError(
                "expected less work in the slots of one text, got a text that takes too long"
            )
        self.names = frozenset[str]().union(*(expression.names for expression in self._expressions))

    def render(self, values: Mapping[str, Any]) -> str:
        """Raises ExpressionError when a slot has no value or cannot be reckoned."""
        results = [expression(values) for expression in self._expressions]
        text = "".join([part if type(part) is str else part[1](results[part[0]]) for part in self._parts])  # type: ignore[index]
        if len(text) > 2 * MAXIMUM_TEXT:
            raise ExpressionError(f"expected at most {2 * MAXIMUM_TEXT} characters of text, got {len(text)}")
        return _CENTS.sub(r"\g<1>0", text) if "." in text else text

    def _split(self, annotated: str) -> None:
        position = 0
        slots = _slots(annotated)
        if len(slots) > MAXIMUM_SLOTS:
            raise ExpressionError(f"expected at most {MAXIMUM_SLOTS} slots, got more")
        for start, end in slots:
            before, after = annotated[position:start], annotated[end:]
            self._parts.append(_literal(before))
            head = annotated[:start]
            reckons = bool(_OPERATOR_BEFORE.search(head[-8:]) or _OPERATOR_AFTER.search(after[:8]))
            reckons = reckons or "####" in head[head.rfind("\n") + 1 :]
            inside = annotated[start + 1 : end - 1]
            self._parts.append(self._slot(inside, reckons, bool(_OPENS_SENTENCE.search(head[-6:]))))
            position = end
        self._parts.append(_literal(annotated[position:]))

    def _slot(self, inside: str, reckons: bool, opens: bool) -> tuple[int, Callable[[Any], str]]:
        source, default = _slot_source(inside)
        if default:
            self.defaults.setdefault(source, default)
        show = _digits if reckons else (_opening if opens else _words)
        try:
            expression = compiled(source)
        except ExpressionError:
            shape = _FORMAT.fullmatch(source)
            if shape is None:
                raise
            source, show = shape.group(1), _formatter(shape.group(2))
            expression = compiled(source)
        if source not in self._indices:
            self._indices[source] = len(self._expressions)
            self._expressions.append(expression)
        return self._indices[source], show


@lru_cache(maxsize=4096)
def parsed_text(annotated: str) -> Text:
    return Text(annotated)


def display(value: Any) -> str:
    """A value as it reads in running text: words for a number that has them."""
    return _words(value)


def _slots(annotated: str) -> list[tuple[int, int]]:
    """(start, end) of every slot; braces inside a slot belong to it."""
    slots: list[tuple[int, int]] = []
    start = depth = 0
    for brace in _BRACE.finditer(annotated):
        if brace.group() == "{":
            start = start if depth else brace.start()
            depth += 1
        elif depth:
            depth -= 1
            if not depth:
                slots.append((start, brace.end()))
    return slots


def _slot_source(inside: str) -> tuple[str, str]:
    """(expression, default or nothing) of a slot: the default follows the first comma outside brackets and quotes."""
    doubled = _DOUBLED.fullmatch(inside)
    inside = doubled.group(1) if doubled else inside
    depth, quote = 0, ""
    source, default = inside, ""
    for place, sign in enumerate(inside):
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "'\"":
            quote = sign
        elif sign in "([{":
            depth += 1
        elif sign in ")]}":
            depth -= 1
        elif sign == "," and depth == 0 and not inside[:place].rstrip().endswith(":"):
            source, default = inside[:place], inside[place + 1 :]
            break
    source = undollared(source.strip()).strip()
    if not source:
        raise ExpressionError("expected a name or an expression in every slot, got an empty slot {}")
    return source, default.strip()


def _literal(text: str) -> str:
    for brace in "{}":
        if brace in text:
            around = text[max(0, text.index(brace) - 20) :][:40]
            raise ExpressionError(
                f"expected every slot as {{name}}, got a lone '{brace}' near '{' '.join(around.split())}'"
            )
    return text


def _words(value: Any) -> str:
    kind = type(value)
    if kind is int:
        return str(value)
    if kind is str:
        return value
    if kind is Worded:
        return value.text
    if kind is Fraction:
        return written(value)
    if kind is bool:
        return "yes" if value else "no"
    if isinstance(value, list | tuple | range) and len(value) <= 100:
        return ", ".join(_words(part) for part in value)
    raise ExpressionError(f"expected a number or a text in a slot, got {kind.__name__}")


def _digits(value: Any) -> str:
    kind = type(value)
    if kind is int:
        return str(value)
    if kind is Worded:
        return (
            f"{value.value.numerator}/{value.value.denominator}"
            if value.value.denominator != 1
            else str(value.value)
        )
    return _words(value)


def _opening(value: Any) -> str:
    text = _words(value)
    return text[:1].upper() + text[1:]


def _formatter(shape: str) -> Callable[[Any], str]:
    return lambda value: formatted(value, shape)
