"""The text of pivots, for people: pages show it without loading a tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cca.files import write_rows
from cca.models.loading import Codec
from cca.pivots.pivot import Pivot

FORMAT, VERSION = "cca.pivot-texts", 1


def write_pivot_texts(path: Path, pivots: Sequence[Pivot], codec: Codec) -> None:
    """One row a pivot: what the model read, and the two tokens it chose between."""
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
    write_rows(path, FORMAT, VERSION, rows)
