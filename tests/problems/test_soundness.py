"""What is wrong with an instance is found, and nothing else is."""

from __future__ import annotations

import pytest

from cca.problems.templates.exact_numbers import Worded
from cca.problems.templates.expressions import compiled
from cca.problems.templates.soundness import disagreement, last_number, negative, untruncated, wrong_step


@pytest.mark.parametrize(
    ("solution", "answer", "fault"),
    [
        ("So 12.\n#### 12", "12", ""),
        ("#### $1,200.50", "1200.5", ""),
        ("#### -3.", "-3", ""),
        ("So 12.\n#### 12", "13", "the answer is 13 but the worked solution ends with 12"),
        ("So twelve.", "12", "the worked solution has no number"),
        ("#### 7/3", "7/3", "the answer 7/3 is not a whole or decimal number"),
    ],
)
def test_disagreement(solution: str, answer: str, fault: str) -> None:
    assert disagreement(solution, answer) == fault


def test_last_number() -> None:
    assert [last_number(text) for text in ("1 and 2,000", "3.5.", "none")] == [2000, 3.5, None]


@pytest.mark.parametrize(
    "line",
    [
        "3 * 4 = 12", "He has 5 bags and 3 * 4 = 12 eggs.", "3 bags * 4 eggs/bag = 12 eggs = 1 dozen",
        "200 total students - 7 play music - 30 like hockey = 163", "$2.50 + $1.25 = $3.75",
        "1 / 3 = 0.33 and 2 / 3 = 0.667", "12 ÷ 1/2 = 24", "9 / 10 = 90%", "50% * 50% = 25%",
        "4 hours = 4 * 60 = 240 minutes", "17 - 0.75 = 16 1/4", "1,000 x 2 = 2,000", "2 * (3 + 4) = 14",
        "T = 40 - 3 = 37", "2x + 3 = 7 so x = 2", "in 3 + 4 = 7 days, 5 more: 7 + 5 = 12", "#### 12",
    ],
)  # fmt: skip
def test_sound_steps(line: str) -> None:
    assert wrong_step(line) == ""


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("3 * 4 = 13", "3 * 4 = 13"),
        ("so 216 inches / 12 inches/foot = 9 foot", "216 / 12 = 9"),
        ("fine: 1 + 1 = 2\nbut $3 + $4 = $8 left", "3 + 4 = 8"),
        ("160*1=240", "160 * 1 = 240"),
        ("3 + 4 = 7 = 8", "7 = 8"),
        ("10 / 4 = 2", "10 / 4 = 2"),
        ("100 * (1 + 2) = 200", "100 * ( 1 + 2 ) = 200"),
    ],
)
def test_wrong_steps(line: str, found: str) -> None:
    assert wrong_step(line) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("12 - -3 players", True),
        ("5 - 8 = -3", True),
        ("420 - 495 = £-75", True),
        ("20 - 25 = -$5 left", True),
        ("so\n#### -75", True),
        ("$20 -$5 = $15", False),
        ("a 6-foot fish", False),
        ("12-3 = 9", False),
        ("7 -3", False),
    ],
)
def test_negative_numbers(text: str, found: bool) -> None:
    assert bool(negative(text)) is found


def test_an_answer_that_was_cut_down() -> None:
    exact = untruncated(compiled("int(n * frac) + n // 4"))
    assert exact is not None
    assert exact({"n": 10, "frac": Worded("half", 1)}) == 12.5
    assert untruncated(compiled("n + 1")) is None
