"""A Pivot: the token prefix at which a problem's traces part, the token to want there and the token to avoid.

The two plain finders are the paper's (section 3.1): `first_difference` (Prefix) and `branching` (its module).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from cca.engines.engine import Tokens
from cca.errors import CcaError
from cca.files import Row, read_rows, write_rows

if TYPE_CHECKING:
    from cca.models.loading import Codec
    from cca.pivots.traces import Trace
    from cca.problems.problem import Problem

FORMAT, TEXTS_FORMAT, VERSION = "cca.pivots", "cca.pivot-texts", 1


@dataclass(frozen=True)
class Pivot:
    """After ``prompt`` and ``prefix`` (token ids) ``desired`` leads to a right answer, ``undesired`` to a wrong one."""

    problem: str
    template: str
    prompt: Tokens
    prefix: Tokens
    desired: int
    undesired: int
    greedy_right: bool
    method: str
    sample: int

    @property
    def tokens(self) -> Tokens:
        """What the model reads before it chooses: prompt and prefix."""
        return self.prompt + self.prefix

    def to_row(self) -> Row:
        return {**self.__dict__, "prompt": list(self.prompt), "prefix": list(self.prefix)}

    @staticmethod
    def from_row(row: Row) -> Pivot:
        """Raises CcaError for anything but what `to_row` gives."""
        if not isinstance(row, dict) or set(row) != {field.name for field in fields(Pivot)}:
            raise CcaError(f"expected a pivot row, got other fields: {row!r:.120}")
        texts = all(isinstance(row[name], str) for name in ("problem", "template", "method"))
        if not texts or not isinstance(row["greedy_right"], bool) or not _token(row["sample"]):
            raise CcaError(f"pivot of problem {row['problem']!r:.80}: a value is not of its kind: {row!r:.200}")
        prompt, prefix = row["prompt"], row["prefix"]
        lists = isinstance(prompt, list) and isinstance(prefix, list) and bool(prompt or prefix)
        if not lists or not all(map(_token, (*prompt, *prefix, row["desired"], row["undesired"]))):
            raise CcaError(f"pivot of problem {row['problem']!r:.80}: expected token ids (whole numbers) throughout")
        return Pivot(**{**row, "prompt": tuple(prompt), "prefix": tuple(prefix)})


def make_pivot(
    problem: Problem, prompt: Tokens, sampled: Trace, place: int, other: int, *, greedy_right: bool, method: str
) -> Pivot:
    """The pivot at token ``place`` of a sampled trace, against the token ``other`` on the greedy side.

    Of the two the one on the right answer's side is desired.
    """
    own = sampled.token_ids[place]
    desired, undesired = (other, own) if greedy_right else (own, other)
    prefix = sampled.token_ids[:place]
    return Pivot(
        problem.id, problem.template, prompt, prefix, desired, undesired, greedy_right, method, sampled.sample
    )  # fmt: skip


def first_difference(left: Sequence[int], right: Sequence[int]) -> int | None:
    """The first index at which two token sequences differ; None when one continues the other or they are equal."""
    return next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), None)


def _token(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 31


def save_pivots(path: Path, pivots: Iterable[Pivot], **header: object) -> None:
    write_rows(path, FORMAT, VERSION, (pivot.to_row() for pivot in pivots), **header)


def load_pivots(path: Path) -> list[Pivot]:
    """Raises CcaError naming the file for anything that is not a pivot file."""
    _, rows = read_rows(path, FORMAT, VERSION)
    try:
        return [Pivot.from_row(row) for row in rows]
    except CcaError as error:
        raise CcaError(f"{path}: {error}") from error


def write_pivot_texts(path: Path, pivots: Iterable[Pivot], codec: Codec) -> None:
    """One row per pivot: what the model read and the two tokens it chose between, for pages that load no tokenizer."""
    rows = [
        {
            "problem": pivot.problem,
            "template": pivot.template,
            "prompt_text": codec.decode(pivot.prompt),
            "prefix_text": codec.decode(pivot.prefix),
            "desired_text": codec.token_text(pivot.desired),
            "undesired_text": codec.token_text(pivot.undesired),
            "greedy_right": pivot.greedy_right,
        }
        for pivot in pivots
    ]
    write_rows(path, TEXTS_FORMAT, VERSION, rows)
