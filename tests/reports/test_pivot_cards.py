from __future__ import annotations

from pathlib import Path

import pytest
from run_sample import text_rows, write_lines

from cca.errors import CcaError
from cca.pivots.pivot import TEXTS_FORMAT as FORMAT
from cca.reports.run_files import LAST_OF_PROMPT, read_cards


def test_templates_take_turns(tmp_path: Path) -> None:
    rows = text_rows(6, ["a"]) + text_rows(2, ["b"]) + text_rows(1, ["c"])
    write_lines(tmp_path / "texts.jsonl", FORMAT, rows)
    assert [card.template for card in read_cards(tmp_path / "texts.jsonl")] == list("abcab" + "aaaa")
    write_lines(tmp_path / "texts.jsonl", FORMAT, text_rows(50))
    assert len({card.template for card in read_cards(tmp_path / "texts.jsonl")}) == 10


def test_a_long_prompt_keeps_its_end(tmp_path: Path) -> None:
    write_lines(tmp_path / "texts.jsonl", FORMAT, text_rows(1, prompt_text="x" * 9999 + "the question"))
    (card,) = read_cards(tmp_path / "texts.jsonl")
    assert card.prompt.startswith("…x")
    assert card.prompt.endswith("the question")
    assert len(card.prompt) == LAST_OF_PROMPT + 1


def test_no_file_no_cards_but_a_row_without_a_token_is_named(tmp_path: Path) -> None:
    assert read_cards(tmp_path / "texts.jsonl") == []
    rows = text_rows(2)
    del rows[1]["desired_text"]
    write_lines(tmp_path / "texts.jsonl", FORMAT, rows)
    with pytest.raises(CcaError, match=r"row 2: expected 'desired_text'"):
        read_cards(tmp_path / "texts.jsonl")
