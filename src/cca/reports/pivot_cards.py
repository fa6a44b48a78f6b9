"""Ten pivots to read: the text up to the fork, and the two tokens.

Texts come from ``pivots_text.jsonl``, which the pivots stage writes, since a page loads no tokenizer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cca.errors import CcaError
from cca.files import read_rows
from cca.pivots.texts import FORMAT, VERSION
from cca.reports import formats
from cca.reports.document import Document

SHOWN = 10
LAST_OF_PROMPT = 420  # characters: a few-shot prompt's end is the problem itself
LAST_OF_PREFIX = 1200


@dataclass(frozen=True)
class PivotCard:
    problem: str
    template: str
    prompt: str
    prefix: str
    desired: str
    undesired: str
    greedy_right: bool


def read_cards(path: Path) -> list[PivotCard]:
    """The pivots with texts, spread over the templates; none where the file is not there.

    Raises CcaError for a file that is something else, naming its row.
    """
    if not path.exists():
        return []
    _, rows = read_rows(path, FORMAT, VERSION)
    cards = [_card(Document(row, f"{path}, row {index}")) for index, row in enumerate(rows, start=1)]
    return spread(cards, SHOWN)


def spread(cards: Sequence[PivotCard], most: int) -> list[PivotCard]:
    """Up to ``most`` cards, as many templates as there are, in the order of the first of each."""
    by_template: dict[str, list[PivotCard]] = {}
    for card in cards:
        by_template.setdefault(card.template, []).append(card)
    longest = max((len(own) for own in by_template.values()), default=0)
    turns = (own[turn] for turn in range(longest) for own in by_template.values() if turn < len(own))
    return [card for card, _ in zip(turns, range(most), strict=False)]


def _card(row: Document) -> PivotCard:
    problem, template = _texts(row, ("problem", "template"))
    prompt, prefix, desired, undesired = _texts(
        row, ("prompt_text", "prefix_text", "desired_text", "undesired_text")
    )
    return PivotCard(
        formats.label(problem),
        formats.label(template),
        formats.visible(_end(prompt, LAST_OF_PROMPT)),
        formats.visible(_end(prefix, LAST_OF_PREFIX)),
        formats.token(desired[:200]) or "(empty)",
        formats.token(undesired[:200]) or "(empty)",
        row.flag("greedy_right") is True,
    )


def _texts(row: Document, keys: Iterable[str]) -> list[str]:
    texts = []
    for key in keys:
        text = row.text(key)
        if text is None:
            raise CcaError(f"{row.name}: expected {key!r}, got none; delete the file and report again")
        texts.append(text)
    return texts


def _end(text: str, characters: int) -> str:
    return text if len(text) <= characters else "…" + text[-characters:]
