"""Claims carried in a patch: kept from a report, shown on the card, never trusted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy import REPORT, toy_patch, toy_weights

from cca.errors import CcaError
from cca.patches.claims import figures, model_card, read_report, report_next_to, with_claims
from cca.patches.patch import Patch
from cca.patches.patch_content import load_content
from cca.patches.patch_file import save_patch

PATCH = toy_patch(toy_weights())


def test_claims_are_the_figures_of_the_report_and_no_more() -> None:
    claims = with_claims(PATCH.made_by, REPORT)["claims"]
    assert claims["gain"] == REPORT["gain"]
    assert claims["base"] == {"accuracy": 0.5}
    assert claims["retention"] == {"trivia": {"base": 0.9, "patched": 0.895, "interval": [-1.0, 0.5]}}
    assert "timing" not in claims
    assert PATCH.made_by == {"cca": "test"}


def test_figures_in_words() -> None:
    assert figures(with_claims(PATCH.made_by, REPORT)) == [
        ("gain", "+25.0 points [+20.0, +30.0], 50.0% to 75.0%, p = 0.0004"),
        ("share edited", "0.460% of parameters, 2.000% of neurons, 0.000% of heads"),
        ("drift elsewhere", "3e-06 nats a token"),
        ("retention, trivia", "90.0% to 89.5% [-1.0, +0.5]"),
    ]
    assert figures(PATCH.made_by) == []


def test_the_card_names_base_revision_figures_and_use() -> None:
    card = model_card(replace(PATCH, made_by=with_claims(PATCH.made_by, REPORT)), "someone/sums")
    for expected in (
        'base_model: "toy"\n',
        "# sums",
        "toy at revision v1",
        "| gain | +25.0 points",
        "| retention, trivia |",
        "cca patch pull someone/sums",
        "cca patch merge toy",
    ):
        assert expected in card
    assert "No figures were published" in model_card(PATCH, "someone/sums")


def test_a_hostile_patch_cannot_write_the_card() -> None:
    evil = "x\n---\n# injected | `code`\n"
    claims = {"gain": {"points": 1.0}, "retention": {evil: {"base": 0.1, "patched": 0.2}}}
    patch = Patch(**{**vars(PATCH), "base_model": evil, "made_by": {"claims": claims}})
    card = model_card(patch, "someone/sums")
    assert "\n# injected" not in card
    assert card.count("\n---\n") == 1  # the end of the front matter


NUMBER = st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=3)
ANY = st.recursive(NUMBER, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner))
SECTIONS = st.sampled_from(["base", "patched", "gain", "share", "drift", "retention"])
KEYS = st.sampled_from(["points", "interval", "p_value", "accuracy", "kl", "heads", "base", "patched"])


@given(st.dictionaries(SECTIONS, ANY | st.dictionaries(KEYS, ANY)) | ANY)
def test_any_claims_are_shown_or_passed_over(claims: object) -> None:
    assert all(isinstance(text, str) for line in figures({"claims": claims}) for text in line)


@pytest.mark.parametrize("text", ["{}", "[]", '{"gain": 3}', "nonsense"])
def test_other_files_are_no_reports(tmp_path: Path, text: str) -> None:
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(CcaError, match=r"report\.json: expected"):
        read_report(tmp_path / "report.json")
    (tmp_path / "report.json").write_text(json.dumps(REPORT))
    assert read_report(tmp_path / "report.json") == REPORT


def test_the_report_next_to_a_patch_speaks_for_it_only_when_it_is_of_the_same_run(tmp_path: Path) -> None:
    config = {"model": "toy", "task": "sums", "seed": 0, "amplify": {"steps": 3}}
    made = Patch(**{**vars(PATCH), "made_by": {"config": config, "best_step": 2}})
    path = tmp_path / "patch.safetensors"
    save_patch(path, made)
    assert report_next_to(path, load_content(path).header["made_by"]) is None
    of_this_run = {**REPORT, "config": config, "amplify": {"best_step": 2}}
    for report, expected in [
        (of_this_run, of_this_run),
        ({**of_this_run, "amplify": {"best_step": 1}}, None),
        ({**of_this_run, "config": {**config, "seed": 1}}, None),
        ({"other": "file"}, None),
    ]:
        (tmp_path / "report.json").write_text(json.dumps(report))
        assert report_next_to(path, load_content(path).header["made_by"]) == expected
