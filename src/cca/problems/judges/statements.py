"""Where a completion states its answer: "The final answer is ...", "#### ...", ``\\boxed{...}``, "Answer: ..."

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

REACH = 400
"""The longest statement, in characters."""
_TRIES = 40
"""How many final statements from the front, and others from the end, are tried: a text of markers stays cheap."""

_FINAL = re.compile(r"final answer is(?![a-z])|####")
_STATED = re.compile(
    r"answer[*_ ]{0,4}(?:(?:to|for|in|of) [^.\n:=]{1,80}? )?"
    r"(?:(?P<verb>is|was|would be|should be|will be|must be|equals|becomes)(?![a-z])"
    r"|(?P<colon>[*_ ]{0,4}[:=\uff1a])|(?P<heading>[*_:]{1,5}[ ]{0,2}\n))"
    r"|\u7b54\u6848[*_ ]{0,4}(?P<chinese>\u662f|\u4e3a|[:\uff1a=])"
)
_BOX = re.compile(r"\\?(?:f?box(?:ed)?)[ ]?\{")
_STOP = re.compile(r"[.!?][\"'”’)*_$\]}]{0,6}(?=\s)|\n|[{}]|\u3002")
_ABBREVIATION = re.compile(r"(?:^|[\s(*$])(?:mr|mrs|ms|dr|prof|st|vs|rs|approx|ca|fig|eq)$", re.IGNORECASE)
_LETTER = re.compile(r"(?:^|[\s.(*])[A-Za-z]$")
_INITIALS = re.compile(r"(?:^|[\s(*])[A-Z]\.[ ]?[A-Z]$")
_LIST_HEADING = re.compile(r"[ ]{0,3}[*_]{0,3}\d{1,3}[.):][*_]{0,3}[ ]+\S")
_EMPTY = " \t\n*_:$`#>=[]()\\\"'-~"


@dataclass(frozen=True, slots=True)
class Statement:
    text: str
    start: int
    """Offset of ``text`` in the part it was found in."""
    kind: str
    """``final``, ``stated`` ("answer is"), ``label`` ("Answer:"), ``box``, ``hashes`` or ``tag``."""
    leading: bool = False
    """A label with nothing before it: it may head the whole worked solution."""


def lowered(text: str) -> str:
    """``text`` in lower case with every offset kept."""
    lower = text.lower()
    return lower if len(lower) == len(text) else "".join(c.lower() if c.isascii() else c for c in text)


def final_statements(text: str, lower: str) -> Iterator[Statement]:
    """Final statements whose end has been written, first one first."""
    if "final answer is" not in lower and "####" not in lower:
        return
    for marker in islice(_FINAL.finditer(lower), _TRIES):
        hashes = marker[0] == "####"
        end, closed = _line_end(text, marker.end()) if hashes else _sentence_end(text, marker.end())
        if closed and not (hashes and _is_heading(text, marker.start(), end)):
            yield Statement(text[marker.end() : end], marker.end(), "hashes" if hashes else "final")


def stated_answers(text: str, lower: str) -> Iterator[Statement]:
    """Statements of every kind, last one first; a box inside a statement comes before that statement."""
    found: list[tuple[int, str, int]] = []
    if "answer" in lower or "\u7b54\u6848" in lower:
        for marker in _STATED.finditer(lower):
            kind = "stated" if marker["verb"] or marker["chinese"] else "label"
            found.append((marker.end(), kind, marker.start()))
    if "box" in lower:
        found += [(marker.end(), "box", marker.start()) for marker in _BOX.finditer(lower)]
    if "####" in lower:
        found += [(match.end(), "hashes", match.start()) for match in re.finditer("####", lower)]
    if "<answer>" in lower:
        found += [(match.end(), "tag", match.start()) for match in re.finditer("<answer>", lower)]
    for start, kind, marker_start in sorted(found, reverse=True)[:_TRIES]:
        statement = _statement(text, lower, start, kind, marker_start)
        if statement is not None:
            yield statement


def _statement(text: str, lower: str, start: int, kind: str, marker_start: int) -> Statement | None:
    if kind == "box":
        end = closing_brace(text, start)
        return None if end is None else Statement(text[start:end], start, kind)
    if kind == "hashes":
        end, _ = _line_end(text, start)
        return None if _is_heading(text, marker_start, end) else Statement(text[start:end], start, kind)
    if kind == "tag":
        end = lower.find("</answer>", start, start + REACH)
        return Statement(text[start : end if end >= 0 else start + REACH], start, kind)
    end, _ = _sentence_end(text, start)
    leading = not lower[:marker_start].strip(_EMPTY) or lower[:marker_start].strip(_EMPTY) == "final"
    return Statement(text[start:end], start, kind, leading)


def closing_brace(text: str, start: int) -> int | None:
    """Offset of the brace that closes the one before ``start``; None when it is missing or too far."""
    depth = 1
    for brace in re.finditer(r"[{}]", text[start : start + REACH]):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return start + brace.start()
    return None


def boxed(text: str) -> str | None:
    r"""What the last \boxed{...} of ``text`` holds; None when there is none, or it never closes."""
    last = None
    for marker in _BOX.finditer(text):
        end = closing_brace(text, marker.end())
        last = text[marker.end() : end] if end is not None else last
    return last


def first_sentence(text: str) -> str:
    """The first sentence of ``text`` by the same rule that ends a statement."""
    return text[: _sentence_end(text, 0)[0]]


def _line_end(text: str, start: int) -> tuple[int, bool]:
    end = text.find("\n", start, start + REACH)
    if end >= 0 and not text[start:end].strip(_EMPTY):  # the answer on the line below its marker
        end = text.find("\n", end + 1, start + REACH)
    return (end, True) if end >= 0 else (min(len(text), start + REACH), False)


def _is_heading(text: str, start: int, end: int) -> bool:
    """Markdown rather than GSM8K: "##### ...", "#### 2. Find the total"."""
    line = text[start + 4 : end]
    return line.startswith("#") or (start > 0 and text[start - 1] == "#") or bool(_LIST_HEADING.match(line))


def _sentence_end(text: str, start: int) -> tuple[int, bool]:
    """(offset where the sentence from ``start`` ends, whether that end has been written and is certain)."""
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
                return position, True
        elif mark == "\u3002":
            return position, True
        elif text[start:position].strip(_EMPTY):
            certain = _ends_sentence(text, start, position, stop.end())
            if certain is None:
                break
            if certain:
                return position, True
    return min(len(text), limit), False


def _ends_sentence(text: str, start: int, position: int, after: int) -> bool | None:
    """Whether the punctuation at ``position`` ends the sentence; None while what follows must decide."""
    if text[position] != ".":
        return True
    said = text[max(start, position - 12) : position]
    if _ABBREVIATION.search(said):
        return False
    if not _LETTER.search(said):
        return True
    if _INITIALS.search(said):
        return text[after] == "\n"
    # A lone letter: an initial ("J. K. Rowling"), an acronym ("2 p.m. today") or a choice ("B. It is ...").
    if text[after] == "\n":
        return True
    following = text[after : after + 8].lstrip(" ")
    if len(following) < 2:
        return None
    if len(text[start:position].strip(_EMPTY)) == 1:
        return not (following[0].isupper() and following[1] == ".")
    return following[0].isupper() and following[1] != "."
