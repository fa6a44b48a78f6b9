"""A newcomer adds a localiser, a judge and an architecture with the code of docs/architecture.md."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import OpenAIGPTConfig, OpenAIGPTLMHeadModel

import tiny_world
from cca.circuits.localisers import Site
from cca.circuits.settings import LOCALISERS, CircuitConfig
from cca.errors import CcaError
from cca.models.anatomy.anatomy import anatomy_of
from cca.models.anatomy.declarations import DECLARATIONS
from cca.models.forward.gates import check_gates
from cca.problems.judges import JUDGES, make_judge

PAGE = (Path(__file__).parents[1] / "docs" / "architecture.md").read_text(encoding="utf-8")


@pytest.fixture
def follow() -> Iterator[Callable[[str], None]]:
    """Runs the code of a section of the page; afterwards the tables are as they were."""
    tables: list[tuple[dict[str, Any], dict[str, Any]]] = [
        (table, dict(table)) for table in (LOCALISERS, JUDGES, DECLARATIONS)
    ]

    def run(section: str) -> None:
        (code,) = re.findall(r"```python\n(.*?)```", PAGE.split(f"## {section}\n")[1].split("\n## ")[0], re.DOTALL)
        assert len(code.splitlines()) < 30
        exec(code, {})

    yield run
    for table, before in tables:
        table.clear()
        table.update(before)


def test_a_localiser(follow: Callable[[str], None]) -> None:
    with pytest.raises(CcaError, match="got 'deepest'"):
        CircuitConfig(localiser="deepest")
    follow("To add a localiser")
    model = tiny_world.model()
    site = Site(model, anatomy_of(model), tiny_world.pivots(4))
    circuit = site.locate(CircuitConfig(localiser="deepest", size=3))
    assert (circuit.method, len(circuit)) == ("deepest", 3)
    assert site.locate(CircuitConfig(localiser="deepest - attribution", size=3)).components != circuit.components


def test_a_judge(follow: Callable[[str], None]) -> None:
    with pytest.raises(CcaError, match="got 'last-word'"):
        make_judge("last-word")
    follow("To add a judge")
    judge = make_judge("last-word")
    assert [judge(text, "42").verdict for text in ("it is 42", "42 it is", " ")] == ["right", "wrong", "unreadable"]


def test_an_architecture(follow: Callable[[str], None]) -> None:
    model = OpenAIGPTLMHeadModel(OpenAIGPTConfig(vocab_size=64, n_embd=32, n_layer=2, n_head=4)).eval()
    with pytest.raises(CcaError, match="set `qkv_layout`"):
        anatomy_of(model)
    follow("To add an architecture")
    check_gates(model, anatomy_of(model))
