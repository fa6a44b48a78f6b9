"""Hand-written questions are split as they were meant."""

from __future__ import annotations

import pytest

from cca.problems.templates.exact_numbers import ExpressionError
from cca.problems.templates.text import Sections


def test_the_published_form() -> None:
    found = Sections.split(
        "A {x,1}?\nB\n\n#init:\n- $x = range(3)\n- y = 2\n\n#conditions:\n- x < y\n\n#answer: x + y\n"
    )
    assert found == Sections("A {x,1}?\nB", ("$x = range(3)", "y = 2"), ("x < y",), "x + y")


@pytest.mark.parametrize(
    ("annotated", "conditions", "answer"),
    [
        ("Q\n#init:\n#answer = $x", (), "x"),
        ("Q\n# Init\n#Condition: \n-  $x = 3\n#answer: {x * 2} ", ("x == 3",), "x * 2"),
        ("Q\n#conditions:\n- x <= 3\n- x >= 1\n- x != 2,\n#answer:\nx", ("x <= 3", "x >= 1", "x != 2"), "x"),
        ("Q\n#conditions:\n- (x +\n  1) > 2\nx < 9\n#answer: x +\n 1", ("(x + 1) > 2", "x < 9"), "x + 1"),
        ("Q\n#conditions:\n- x > 1\n# - x > 5\n- # x > 6\n#answer: x", ("x > 1",), "x"),
        ("Q\r\n#conditions:\r\n* x > 1\r\n#answer: x\r\n", ("x > 1",), "x"),
    ],
)
def test_quirks_of_published_files(annotated: str, conditions: tuple[str, ...], answer: str) -> None:
    found = Sections.split(annotated)
    assert (found.text, found.conditions, found.answer) == ("Q", conditions, answer)


@pytest.mark.parametrize(
    ("annotated", "fault"),
    [
        ("Q\n#init:\n- x = 3", "expected one '#answer:'"),
        ("Q\n#answer:", "expected one '#answer:'"),
        ("Q\n#answer: x\n#answer: y", "expected one '#answer:'"),
        ("Q\n#answer: {}", "expected an expression"),
        ("#init:\n- x = 3\n#answer: x", "expected a question"),
        ("Q\n#init:\n" + "- x = 3\n" * 101 + "#answer: x", "at most 100 lines in #init"),
    ],
)
def test_faults(annotated: str, fault: str) -> None:
    with pytest.raises(ExpressionError) as failure:
        Sections.split(annotated)
    assert fault in str(failure.value)
