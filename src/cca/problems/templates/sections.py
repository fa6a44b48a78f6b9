"""The sections of an annotated question: the text, then ``#init``, ``#conditions`` and ``#answer``.

Published templates are written by hand; accepted are ``#answer = x``, ``#answer: {x}``, ``$`` before any name, a lone
``=`` for ``==``, items without a dash, items over several lines, and lines that are commented out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from cca.problems.templates.exact_numbers import ExpressionError
from cca.problems.templates.expressions import brief, undollared

MOST_ITEMS = 100
"""Lines that #init and #conditions may have."""

_HEADER = re.compile(r"#+\s*(init|condition|answer)s?\b\s*[:=]?\s*(.*)", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class Sections:
    """``text`` with its slots, the items of ``init`` and ``conditions``, and the expression of the answer."""

    text: str
    init: tuple[str, ...]
    conditions: tuple[str, ...]
    answer: str

    @classmethod
    def split(cls, annotated: str) -> Sections:
        """Raises ExpressionError when there is no question, no answer, or too much of either."""
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
                raise ExpressionError(
                    f"expected at most {MOST_ITEMS} lines in #{section}, got {len(found[section])}"
                )
        if len(found["answer"]) != 1:
            raise ExpressionError(f"expected one '#answer:' with an expression, got {len(found['answer'])}")
        text = "\n".join(found["text"]).strip()
        if not text:
            raise ExpressionError("expected a question before #init, got none")
        conditions = tuple(_compared(_plain(line)) for line in found["condition"])
        return cls(text, tuple(found["init"]), conditions, _unwrapped(found["answer"][0]))


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
    answer = _plain(whole[1] if whole else answer)
    if not answer:
        raise ExpressionError("expected an expression after '#answer:', got none")
    return answer


def _plain(item: str) -> str:
    item = undollared(item).strip().rstrip(",;")
    if not item:
        raise ExpressionError(f"expected an expression in every line, got '{brief(item)}'")
    return item
