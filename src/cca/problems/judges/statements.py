"""Statements of an answer in a completion: "The final answer is ...", "#### ...", ``\\boxed{...}``, "Answer: ..."

Two kinds. A *final* statement ("the final answer is X." or a line "#### X") closes the completion once its
sentence has ended: the first readable one is the answer and nothing after it is read. This is what lets
decoding stop there. Other statements may be taken back, so the last readable one counts.

Every search is linear: a statement is at most `REACH` characters long, and only the last few are tried.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

REACH = 400
"""The longest statement, in characters."""
_TRIES = 40
"""Final statements from the front, and others from the end, that are tried: a text of markers stays cheap."""

_OTHER_LANGUAGES = (
    "antwort|respuesta|r\u00e9ponse|reponse|risposta|resposta|antwoord|svar|odpowied\u017a|cevap|jibu|"
    "\u043e\u0442\u0432\u0435\u0442|\u0989\u09a4\u09cd\u09a4\u09b0|\u0909\u0924\u094d\u0924\u0930|\u0e04\u0e33\u0e15\u0e2d\u0e1a|"
    "\u0c38\u0c2e\u0c3e\u0c27\u0c3e\u0c28\u0c02|\u0627\u0644\u0625\u062c\u0627\u0628\u0629|\u0627\u0644\u062c\u0648\u0627\u0628"
)
"""*Answer* in other languages, the eleven of MGSM among them."""

_FINAL = re.compile(r"final answer is(?![a-z])|####")
_STATED = re.compile(
    r"answer[*_ ]{0,4}(?:(?:to|for|in|of) [^.\n:=]{1,80}? )?"
    r"(?:(?P<verb>is|was|would be|should be|will be|must be|equals|becomes)(?![a-z])"
    r"|(?P<colon>[*_ ]{0,4}[:=\uff1a])|(?P<heading>[*_:]{1,5}[ ]{0,2}\n))"
    rf"|(?<!\w)(?:{_OTHER_LANGUAGES})[*_ ]{{0,4}}"
    r"(?P<other>[:\uff1a=]|(?:ist|lautet|es|est|\u00e8|\u00e9|jest)(?![^\W\d_]))"
    r"|(?:\u7b54\u6848|\u7b54\u3048|\u56de\u7b54|\uc815\ub2f5|\ub2f5)[*_ ]{0,4}"
    r"(?P<eastern>\u662f|\u4e3a|\u306f|\uc740|[:\uff1a=])"
)
_BOX = re.compile(r"\\?(?:f?box(?:ed)?)[ ]?\{")
_STOP = re.compile(r"[.!?][\"'”’)*_$\]}]{0,6}(?=\s)|\n|[{}]|\u3002")
_ABBREVIATION = re.compile(r"(?:^|[\s(*$])(?:mr|mrs|ms|dr|prof|st|vs|rs|approx|ca|fig|eq)$", re.IGNORECASE)
_LETTER = re.compile(r"(?:^|[\s.(*])[A-Za-z]$")
_FOLLOWING = re.compile(r"[^\S\n]{0,20}(?:\n|[^\s].)", re.DOTALL)
_INITIALS = re.compile(r"(?:^|[\s(*])[A-Z]\.[ ]?[A-Z]$")
_LIST_HEADING = re.compile(r"[ ]{0,3}[*_]{0,3}\d{1,3}[.):][*_]{0,3}[ ]+\S")
_DIGIT = re.compile(r"\d")
_DENIAL = re.compile(r"\s*(?:not\b|n't)", re.IGNORECASE)
_LABEL_WORDS = ("", "final", "the final", "the", "my final")
_EMPTY = " \t\n*_:$`#>=[]()\\\"'-~"


@dataclass(frozen=True, slots=True)
class Statement:
    text: str
    kind: str
    """``final``, ``stated`` ("answer is"), ``label`` ("Answer:"), ``box``, ``hashes`` or ``tag``."""
    leading: bool = False
    """A label with nothing before it: it may head the whole worked solution."""
    closing: bool = False
    """A label at the head of a later line, with no digit after its sentence."""
    alone: bool = True
    """Nothing follows it."""

    @property
    def denies(self) -> bool:
        """True for "is not ..."."""
        return _DENIAL.match(self.text) is not None


def lowered(text: str) -> str:
    """``text`` in lower case with every offset kept."""
    lower = text.lower()
    return lower if len(lower) == len(text) else "".join(c.lower() if c.isascii() else c for c in text)


def final_statements(text: str) -> list[Statement]:
    """Final statements whose end has been written, in the order in which their ends became certain."""
    lower = lowered(text)
    if "final answer is" not in lower and "####" not in lower:
        return []
    found: list[tuple[_End, Statement]] = []
    for marker in islice(_FINAL.finditer(lower), _TRIES):
        start, hashes = marker.end(), marker[0] == "####"
        end = _line_end(text, start) if hashes else _sentence_end(text, start)
        if end.certain and not (hashes and _is_heading(text, marker.start(), end.position)):
            statement = Statement(text[start : end.position], "hashes" if hashes else "final")
            found.append((end, statement))
    found.sort(key=lambda entry: (entry[0].certain, entry[0].position))
    return [statement for _, statement in found]


def stated_answers(text: str, closed: bool = False) -> Iterator[Statement]:
    """Statements of every kind, last one first; a box inside a statement comes before that statement.

    ``closed``: only those whose end has been written.
    """
    lower = lowered(text)
    found: list[tuple[int, str, int]] = []
    for marker in _STATED.finditer(lower):
        said = marker["verb"] or (marker["other"] or ":")[0] not in ":\uff1a=" or marker["eastern"]
        found.append((marker.end(), "stated" if said else "label", marker.start()))
    for kind, sign, pattern in (("box", "box", _BOX), ("hashes", "####", "####"), ("tag", "<answer>", "<answer>")):
        if sign in lower:
            found += [(marker.end(), kind, marker.start()) for marker in re.finditer(pattern, lower)]
    for start, kind, marker_start in sorted(found, reverse=True)[:_TRIES]:
        statement = _statement(text, lower, start, kind, marker_start, closed)
        if statement is not None:
            yield statement


def _statement(text: str, lower: str, start: int, kind: str, marker_start: int, closed: bool) -> Statement | None:
    if kind == "box":
        end = closing_brace(text, start)
        return None if end is None else Statement(text[start:end], kind)
    if kind == "tag":
        end = lower.find("</answer>", start, start + REACH)
        return Statement(text[start : end if end >= 0 else start + REACH], kind) if end >= 0 or not closed else None
    found = _line_end(text, start) if kind == "hashes" else _sentence_end(text, start)
    if closed and not found.certain:
        return None
    end = found.position
    if kind == "hashes":
        return None if _is_heading(text, marker_start, end) else Statement(text[start:end], kind)
    if kind != "label":
        return Statement(text[start:end], kind)
    before = lower[:marker_start]
    leading = before.strip(_EMPTY) in _LABEL_WORDS
    heads_line = before.rpartition("\n")[2].strip(_EMPTY) in _LABEL_WORDS
    closing = heads_line and not leading and _DIGIT.search(text, end) is None
    return Statement(text[start:end], kind, leading, closing, not text[end:].strip(_EMPTY + ".!?"))


def closing_brace(text: str, start: int) -> int | None:
    """Offset of the brace that closes the one before ``start``; None when it is missing or too far."""
    depth = 1
    for brace in re.finditer(r"[{}]", text[start : start + REACH]):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return start + brace.start()
    return None


def boxed(text: str) -> str | None:
    r"""The content of the last \boxed{...} in ``text``; None when there is none, or it never closes."""
    last = None
    for marker in _BOX.finditer(text):
        end = closing_brace(text, marker.end())
        last = text[marker.end() : end] if end is not None else last
    return last


def first_sentence(text: str) -> str:
    """The first sentence of ``text`` by the same rule that ends a statement."""
    return text[: _sentence_end(text, 0).position]


class _End(NamedTuple):
    position: int
    """The end of the statement, or that of the text or its reach."""
    certain: int = 0
    """How much of the text it took to be sure of that; 0 while it could go on."""


def _line_end(text: str, start: int) -> _End:
    end = text.find("\n", start, start + REACH)
    if end >= 0 and not text[start:end].strip(_EMPTY):  # the answer on the line below its marker
        end = text.find("\n", end + 1, start + REACH)
    return _End(end, end + 1) if end >= 0 else _End(min(len(text), start + REACH))


def _is_heading(text: str, start: int, end: int) -> bool:
    """Markdown rather than GSM8K: "##### ...", "#### 2. Find the total"."""
    line = text[start + 4 : end]
    return line.startswith("#") or (start > 0 and text[start - 1] == "#") or bool(_LIST_HEADING.match(line))


def _sentence_end(text: str, start: int) -> _End:
    depth, limit = 0, start + REACH
    for stop in _STOP.finditer(text, start, limit):
        mark, position = stop[0], stop.start()
        if mark == "{":
            depth += 1
        elif mark == "}":
            depth = max(depth - 1, 0)
        elif depth > 0:
            continue
        elif mark == "\n":
            said = text[start:position].strip(_EMPTY)
            if said and not text[start:position].rstrip("*_ \t").endswith(":"):
                return _End(position, position + 1)
        elif mark == "\u3002":
            return _End(position, position + 1)
        elif text[start:position].strip(_EMPTY):
            certain = _ends_sentence(text, start, position, stop.end())
            if certain is None:
                break
            if certain:
                return _End(position, certain)
    return _End(min(len(text), limit))


def _ends_sentence(text: str, start: int, position: int, after: int) -> int | None:
    """The part of ``text``, in characters, that shows that the punctuation at ``position`` ends the sentence.

    0 when it does not; None while what follows must decide.
    """
    if text[position] != ".":
        return after + 1
    said = text[max(start, position - 12) : position]
    if _ABBREVIATION.search(said):
        return 0
    if not _LETTER.search(said):
        return after + 1
    # A lone letter: an initial ("J. K. Rowling"), an acronym ("2 p.m. today") or a choice ("B. It is ...").
    following = _FOLLOWING.match(text, after)
    if following is None:
        return None
    if following[0].endswith("\n"):
        return following.end()
    first, second = following[0][-2:]
    if _INITIALS.search(said):
        ends = False
    elif len(text[start:position].strip(_EMPTY)) == 1:
        ends = not (first.isupper() and second == ".")
    else:
        ends = first.isupper() and second != "."
    return following.end() if ends else 0
