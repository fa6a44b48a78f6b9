"""The pages of docs: their links lead somewhere, their lines of prose are at most 120 characters."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files_and_prose_fits(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    missing = [link for link in LINK.findall(text) if not (page.parent / link).exists()]
    assert not missing
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    long = [line for line in prose.splitlines() if len(line) > 120 and line[0] not in "|#<!" and line[:4] != "    "]
    assert not long
