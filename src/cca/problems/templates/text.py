"""The texts of a template: an annotated question split into its sections, and slots filled in.

Published templates are written by hand. Accepted are ``#answer = x``, ``#answer: {x}``, ``$`` before any name, a lone
``=`` for ``==``, items without a dash, items over several lines, and lines that are commented out.

A slot shows words in a sentence ("half of the eggs") and digits in arithmetic: next to an operator, inside ``<<...>>``
and on the ``####`` line. Calculator annotations ``<<3*4=12>>`` are left out of the plain text. A slot that opens a
sentence is capitalised; cents are written with two digits after a currency sign.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal, localcontext
from fractions import Fraction
from functools import lru_cache
from typing import Any

from cca.problems.templates.exact_numbers import ExpressionError, Worded, number, written
from cca.problems.templates.expressions import Expression, compiled

MAXIMUM_TEXT = 20_000
MAXIMUM_SLOTS = 2_000
MAXIMUM_COST = 200_000

_BRACE = re.compile(r"[{}]")
_DOUBLED = re.compile(r"\s*\{([^{}]*)\}\s*")
_FORMAT = re.compile(r"(.*):((?:0\d)?,?(?:\.\d)?)([fd%]?)", re.DOTALL)  # width, comma and places; kind
_OPENS_SENTENCE = re.compile(r"(?:\A|[.!?][\"”')]*\s|\n)\s*\Z")
_OPERATOR_BEFORE = re.compile(r"(?:[*/+=÷×<>(^]|(?<=\s)[-–−x]|(?<=\d)-)\s*(?:[$€£])?\Z")
_OPERATOR_AFTER = re.compile(r"\A\s*(?:[*/+=÷×<>^%]|[-–−x](?=\s)|-(?=\d))")
_LEFT_OUT = re.compile(r"=[ ]*<<.{0,400}?>>[ ]*=(?!=)|(?<=[ ])<<.{0,400}?>>[ ]|<<.{0,400}?>>")
_CENTS = re.compile(r"([$€£]\d+\.\d)(?![\d/])")

MOST_ITEMS = 100
"""Most lines of #init and of #conditions."""

_HEADER = re.compile(r"#+\s*(init|condition|answer)s?\b\s*[:=]?\s*(.*)", re.IGNORECASE | re.DOTALL)

Writer = Callable[[Any], str]


@dataclass(frozen=True)
class Sections:
    """``text`` with its slots, the items of ``init`` and ``conditions``, and the expression of the answer."""

    text: str
    init: tuple[str, ...]
    conditions: tuple[str, ...]
    answer: str

    @classmethod
    def split(cls, annotated: str) -> Sections:
        """Split an annotated question. Raises ExpressionError when the question or the answer is missing."""
        found: dict[str, list[str]] = {"text": [], "init": [], "condition": [], "answer": []}
        current = "text"
        for line in annotated.splitlines():
            header = _HEADER.match(line.strip())
            if header:
                current, rest = header.group(1).lower(), header.group(2)
                if rest.strip():
                    found[current].append(_item(rest, current))
            elif current == "text":
                found["text"].append(line)
            elif line.strip() and not line.lstrip(" -\t").startswith("#"):
                _add(found[current], line.strip(), current)
        for section in ("init", "condition"):
            if len(found[section]) > MOST_ITEMS:
                raise ExpressionError(f"expected at most {MOST_ITEMS} lines in #{section}, got {len(found[section])}")
        if len(found["answer"]) != 1:
            raise ExpressionError(f"expected one '#answer:' with an expression, got {len(found['answer'])}")
        text = "\n".join(found["text"]).strip()
        if not text:
            raise ExpressionError("expected a question before #init, got none")
        conditions = tuple(_compared(_plain(line)) for line in found["condition"])
        return cls(text, tuple(found["init"]), conditions, _unwrapped(found["answer"][0]))


class Text:
    """An annotated text, parsed once. ``render`` fills it in; ``names`` are those its slots read."""

    def __init__(self, annotated: str) -> None:
        """Raises ExpressionError naming the slot that cannot be read."""
        if len(annotated) > MAXIMUM_TEXT:
            raise ExpressionError(f"expected at most {MAXIMUM_TEXT} characters of text, got {len(annotated)}")
        plain = _LEFT_OUT.sub(lambda found: found.group()[: found.group().startswith("=")], annotated)
        self._expressions: dict[str, Expression] = {}
        self.defaults: dict[str, str] = {}
        self._parts: list[str | tuple[str, Writer]] = []
        self._split(re.sub(r"(?<=\S) {2,}(?=\S)", " ", plain))
        if sum(expression.cost for expression in self._expressions.values()) > MAXIMUM_COST:
            raise ExpressionError("expected less work in the slots of one text, got a text that takes too long")
        self.names = frozenset[str]().union(*(one.names for one in self._expressions.values()))

    def render(self, values: Mapping[str, Any]) -> str:
        """Raises ExpressionError when a slot has no value or cannot be evaluated."""
        results = {source: expression(values) for source, expression in self._expressions.items()}
        parts = [part if isinstance(part, str) else part[1](results[part[0]]) for part in self._parts]
        text = "".join(parts)
        if len(text) > 2 * MAXIMUM_TEXT:
            raise ExpressionError(f"expected at most {2 * MAXIMUM_TEXT} characters of text, got {len(text)}")
        return _CENTS.sub(r"\g<1>0", text) if "." in text else text

    def _split(self, annotated: str) -> None:
        position = 0
        slots = _slots(annotated)
        if len(slots) > MAXIMUM_SLOTS:
            raise ExpressionError(f"expected at most {MAXIMUM_SLOTS} slots, got more")
        for start, end in slots:
            head, after = annotated[:start], annotated[end:]
            self._parts.append(_literal(annotated[position:start]))
            computes = bool(_OPERATOR_BEFORE.search(head[-8:]) or _OPERATOR_AFTER.search(after[:8]))
            computes = computes or "####" in head[head.rfind("\n") + 1 :]
            opens = bool(_OPENS_SENTENCE.search(head[-6:]))
            writer = _digits if computes else (_opening if opens else _words)
            self._parts.append(self._slot(annotated[start + 1 : end - 1], writer))
            position = end
        self._parts.append(_literal(annotated[position:]))

    def _slot(self, inside: str, writer: Writer) -> tuple[str, Writer]:
        source, default = _source_and_default(inside)
        if default:
            self.defaults.setdefault(source, default)
        if source not in self._expressions:
            try:
                self._expressions[source] = compiled(source)
            except ExpressionError:
                shape = _FORMAT.fullmatch(source)
                if shape is None:
                    raise
                source = shape[1]
                self._expressions[source] = compiled(source)
                return source, _formatter(shape[2], shape[3])
        return source, writer


parsed_text = lru_cache(maxsize=4096)(Text)


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


def _source_and_default(inside: str) -> tuple[str, str]:
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
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str | Worded):
        return value if isinstance(value, str) else value.text
    if isinstance(value, int | Fraction):
        return written(value)
    raise ExpressionError(f"expected a number or a text in a slot, got {type(value).__name__}")


def _digits(value: Any) -> str:
    if isinstance(value, Worded):
        return f"{value.numerator}/{value.denominator}".removesuffix("/1")
    return _words(value)


def _opening(value: Any) -> str:
    text = _words(value)
    return text[:1].upper() + text[1:]


def _formatter(shape: str, kind: str) -> Writer:
    """The writer of a slot with a format: ``{price:.2f}``, ``{people:,}``, ``{minute:02d}``, ``{share:.0%}``."""
    shape += ".0" if kind in ("f", "%") and "." not in shape else ""
    shape += "%" if kind == "%" else "f" if "." in shape else ""

    def write(value: Any) -> str:
        amount = number(value, "a formatted slot")
        with localcontext(rounding=ROUND_HALF_UP):
            return format(Decimal(amount.numerator) / amount.denominator, shape)

    return write


def undollared(text: str) -> str:
    """``$n - $k`` as ``n - k``: the sign that numbers bear in #init may stand before their names anywhere."""
    return re.sub(r"\$(?=\s?[^\W\d])", "", text)


def _add(items: list[str], line: str, section: str) -> None:
    """A new item, or the rest of the last one when that has open brackets."""
    opened = bool(items) and _open(items[-1])
    if items and (section == "answer" or (opened and not re.match(r"-\s|-\$", line))):
        items[-1] += f" {line}"
    else:
        items.append(_item(line, section))


def _item(line: str, section: str) -> str:
    """The line without its dash; an answer may begin with a minus sign."""
    return re.sub(r"\A[-*•]\s+" if section == "answer" else r"\A[-*•]\s*", "", line.strip())


def _open(item: str) -> bool:
    return item.count("(") > item.count(")") or item.count("[") > item.count("]")


def _compared(condition: str) -> str:
    return re.sub(r"(?<![=!<>])=(?!=)", "==", condition.replace("<>", "!="))


def _unwrapped(answer: str) -> str:
    whole = re.fullmatch(r"\{([^{}]*)\}", answer.strip())
    return _plain(whole[1] if whole else answer)


def _plain(item: str) -> str:
    item = undollared(item).strip().rstrip(",;")
    if not item:
        raise ExpressionError("expected an expression after '#answer:' and in every line of #conditions, got none")
    return item
