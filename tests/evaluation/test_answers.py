"""Verdicts of a run's model: the base asked once, an edit of it from drafts; what a run folder keeps of both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tiny_run
from cca.engines.engine import Completion, Draft
from cca.evaluation.accuracy import Results
from cca.evaluation.answers import UNTOUCHED, BaseAnswers
from cca.runs.config import load_config
from cca.runs.folder.run_folder import RunFolder
from cca.runs.open import OpenRun
from cca.runs.progress import NoProgress


@pytest.fixture(scope="module")
def yaml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_run.make(tmp_path_factory.mktemp("world"), traces={"max_new_tokens": 12, "chunk": 5})


def opened(yaml: Path, folder: Path) -> OpenRun:
    folder.mkdir(exist_ok=True)
    return OpenRun(load_config(yaml), RunFolder(folder), NoProgress())


def edit(run: OpenRun) -> None:
    with torch.no_grad():
        run.model.get_parameter("model.layers.1.mlp.up_proj.weight").mul_(1.5)


def asked(run: OpenRun, weights: str | None) -> Results:
    return run.answering.answers(run.task.train, run.max_new_tokens, weights)


def test_an_edit_is_judged_from_drafts_as_it_would_be_without(yaml: Path, tmp_path: Path) -> None:
    plain, drafted = opened(yaml, tmp_path / "plain"), opened(yaml, tmp_path / "drafted")
    base = asked(drafted, UNTOUCHED)
    whole = drafted.engine.generated_tokens
    edit(plain)
    edit(drafted)
    expected = asked(plain, "edit")
    assert asked(drafted, None) == asked(drafted, "edit") == expected
    assert expected != base, "an edit that changes no verdict tests nothing"
    assert 0 < (drafted.engine.generated_tokens - whole) / 2 < plain.engine.generated_tokens


def test_a_resumed_run_finds_verdicts_and_drafts(yaml: Path, tmp_path: Path) -> None:
    first = opened(yaml, tmp_path)
    base = asked(first, UNTOUCHED)
    resumed = opened(yaml, tmp_path)
    assert asked(resumed, UNTOUCHED) == base
    assert resumed.engine.generated_tokens == 0
    assert resumed.answering.base == first.answering.base
    edit(resumed)
    verdicts = asked(resumed, "edit")
    again = opened(yaml, tmp_path)  # not edited: it must not ask
    assert asked(again, "edit") == verdicts


@pytest.mark.parametrize("first", [True, False], ids=["drafts first", "drafts later"])
def test_the_base_is_judged_once_whatever_engine_goes_on(yaml: Path, tmp_path: Path, first: bool) -> None:
    before = opened(yaml, tmp_path)
    before.engine.reads_cheaply = first  # type: ignore[misc]
    base = asked(before, UNTOUCHED)
    after = opened(yaml, tmp_path)
    after.engine.reads_cheaply = not first  # type: ignore[misc]
    edit(after)  # were the base judged again, it would be by this
    assert asked(after, UNTOUCHED) == base
    assert (after.engine.generated_tokens == 0) == first


def test_no_drafts_are_made_where_no_edit_will_be_asked(yaml: Path, tmp_path: Path) -> None:
    own = opened(yaml, tmp_path)
    plain = own.answering.answers(own.task.train, own.max_new_tokens, UNTOUCHED, drafts=False)
    assert plain == asked(opened(yaml, tmp_path / "other"), UNTOUCHED)
    assert not own.answering.base


def test_an_engine_that_reads_dearly_generates(yaml: Path, tmp_path: Path) -> None:
    own = opened(yaml, tmp_path)
    own.engine.reads_cheaply = False  # type: ignore[misc]
    assert asked(own, UNTOUCHED) == asked(opened(yaml, tmp_path / "other"), None)
    assert not own.answering.base


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 5) | st.sampled_from(["r", "w", "u", "rw", "x"]),
    lambda inner: st.lists(inner, max_size=5),
    max_leaves=12,
)


def test_base_answers_survive_their_file() -> None:
    prefixes = [(3, 4), (5,)]
    drafts = (
        Draft(prefixes[0], Completion((7, 8), True), (7, 8)),
        Draft(prefixes[1], Completion((9, 2, 6), False), (9, 3, 6)),
    )
    kept = BaseAnswers(drafts, "rw")
    assert BaseAnswers.from_value(json.loads(json.dumps(kept.to_value())), prefixes) == kept


@given(VALUES, st.integers(0, 2), st.integers(0, 3))
def test_anything_else_is_no_base_answers(other: Any, row: int, field: int) -> None:
    value: Any = [[[7, 8], True, None, "r"], [[9, 2], False, [9, 3], "w"]]
    prefixes = [(3,), (4,)]
    if row < 2:
        value[row][field] = other
    else:
        value = other
    read = BaseAnswers.from_value(value, prefixes)
    if read is not None:
        assert read.to_value() == [[list(t), f, None if r in (None, t) else r, v] for t, f, r, v in value]
