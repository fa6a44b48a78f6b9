"""The terminal's table: what it says, and that nothing in a file can act on the terminal."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console
from run_sample import HOSTILE, gain, history, report

from cca.reports.report import Report
from cca.reports.results import summary_table


def printed(found: dict[str, Any], width: int = 100, **options: Any) -> str:
    console = Console(file=io.StringIO(), width=width, **options)
    console.print(summary_table(Report.from_json(found)))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert isinstance(text, str)
    return text


def lines(found: dict[str, Any]) -> list[str]:
    return [" ".join(line.split()) for line in printed(found, 150).splitlines()]


def test_says_what_was_found() -> None:
    assert [line for line in lines(report()) if line][2:] == [
        "all test problems 67.2 % 94.8 % +27.6 +22.4 to +32.9 3.1e-6",
        "templates in training 68.0 % 95.5 % +27.5 +21.9 to +33.0",
        "templates never seen 64.8 % 92.7 % +27.9 +17.0 to +39.2",
        "facts 99.5 % 99.5 % 0.0 none of 200 lost: at most 1.5 4.1e-7",
        "reversal 98.5 % 98.0 % -0.5 -1.5 to +0.5 2.2e-6",
        "multiple choice 100.0 % 100.0 % 0.0 none of 200 lost: at most 1.5 8.8e-6",
        "sorting 96.0 % 96.5 % +0.5 0.0 to +1.5 1.3e-6",
        "random circuit 67.2 % 69.4 % +2.2 -1.4 to +5.9 8.4e-4",
        "edited 0.46 % of parameters, 1.9 % of neurons, 0 % of heads, 1.9 % of components",
        "McNemar p = 3e-61 (341 gained, 23 lost)",
        "random circuit drift 9.3e-4 at the same accuracy, 270 times the patch's 3.4e-6 (validation)",
        "pivots 60; precision 93.0 %, recall 71.0 % of the planted ones",
        "best step 10",
        "time 3 min 41 s: traces 41.3 s, pivots 18.7 s, circuit 1.9 s, amplify 1 min 02 s, "
        "evaluate 25.0 s, controls 1 min 12 s",
        "fingerprint 0123456789abcdef",
    ]


@pytest.mark.parametrize("width", [40, 60, 80])
def test_no_figure_is_cut_off_on_a_narrow_terminal(width: int) -> None:
    text = printed(report(), width)
    assert max(map(len, text.splitlines())) <= width
    if width >= 60:
        assert all(figure in text for figure in ("94.8 %", "+27.6", "+32.9", "3.1e-6", "8.4e-4"))


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_texts_from_files_are_only_ever_text(text: str) -> None:
    found = report()
    found["retention"] = {text: found["retention"]["facts"]}
    found["controls"] = {text: {"gain": gain(1.0, 0.0, 2.0)}}
    found["timing"] = {text: {"seconds": 1.0}}
    found["fingerprint"] = text
    shown = printed(found, force_terminal=True, color_system=None)
    for character in "\x00\x07\x1b\u202e\ud800":
        assert character not in shown
    if text.startswith("["):
        assert shown.count(text) >= 3


def test_what_is_not_there_is_left_out() -> None:
    found = report(
        retention={}, controls={}, unseen_templates=None, seen_templates=None, timing={}, amplify=history(2, 0),
        pivots={"count": 3}, gain=gain(0.0, -1.0, 1.0, 0.0),
    )  # fmt: skip
    shown = "\n".join(lines(found))
    assert "best step 0: no step beat the untouched model" in shown
    assert "p < 1e-300" in shown
    assert "pivots 3\n" in shown
    for absent in ("templates never seen", "facts", "random", "time", "planted"):
        assert absent not in shown
    assert "all test problems" not in "\n".join(lines({}))


def test_a_control_that_never_became_as_accurate() -> None:
    found = report()
    found["controls"]["random"]["matched"] = {"reached": 0, "drift": None, "patch": 3e-6}
    assert "random circuit none became as accurate as the patch" in lines(found)
