"""What the base answered to a chunk of problems, as a measurement of a run folder keeps it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cca.engines.drafts import Draft
from cca.engines.engine import Completion, Tokens
from cca.problems.judges.judge import Verdict

LETTERS = {verdict.value[0]: verdict for verdict in Verdict}


@dataclass(frozen=True)
class BaseAnswers:
    """What the base writes, and the first letter of the verdict on it, problem by problem."""

    drafts: tuple[Draft, ...]
    letters: str

    def to_value(self) -> list[Any]:
        """As JSON has it; what the base reads is left out where it is what it wrote."""
        return [
            [
                list(made.token_ids),
                made.finished,
                None if draft.read == made.token_ids else list(draft.read),
                letter,
            ]
            for draft, letter in zip(self.drafts, self.letters, strict=True)
            for made in [draft.completion]
        ]

    @staticmethod
    def from_value(value: Any, prefixes: Sequence[Tokens]) -> BaseAnswers | None:
        """None for anything but what `to_value` gives for as many problems."""
        if not isinstance(value, list) or len(value) != len(prefixes) or not all(map(_sound, value)):
            return None
        drafts = [
            Draft(prefix, Completion(tuple(text), finished), tuple(text if read is None else read))
            for prefix, (text, finished, read, _) in zip(prefixes, value, strict=True)
        ]
        return BaseAnswers(tuple(drafts), "".join(row[3] for row in value))


def _sound(row: Any) -> bool:
    if not isinstance(row, list) or len(row) != 4:
        return False
    text, finished, read, letter = row
    return (
        _are_tokens(text)
        and isinstance(finished, bool)
        and (read is None or (_are_tokens(read) and len(read) == len(text)))
        and isinstance(letter, str)
        and letter in LETTERS
    )


def _are_tokens(value: Any) -> bool:
    return isinstance(value, list) and all(type(token) is int and token >= 0 for token in value)
