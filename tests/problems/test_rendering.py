"""Annotated text becomes what a person would have written; hand-written questions are split as they were meant."""

from __future__ import annotations

from fractions import Fraction

import pytest

from cca.problems.templates.exact_numbers import ExpressionError, Worded
from cca.problems.templates.text import Sections, Text

VALUES = {
    "n": 6,
    "price": Fraction(5, 2),
    "frac": Worded("half", Fraction(1, 2)),
    "mult": Worded("twice", 2),
    "die": Worded("six-sided", 6),
    "fruit": "apple",
    "cur": "$",
    "name": "Ana",
    "days": ["Monday", "Friday"],
    "debt": -1234,
}


@pytest.mark.parametrize(
    ("annotated", "text"),
    [
        ("{name,Jerry} has {n,5} {fruit, pear}s.", "Ana has 6 apples."),
        ("{ name , Mr. O'Neil, Jr. }", "Ana"),
        ("{n*price}{n//4}{n/4}", "1511.5"),
        ("{0.1+0.2} {6.0} {2/3} {1/8}", "0.3 6 2/3 0.125"),
        ("{cur,$}{price,1} and {cur}{price*2} or ${price}", "$2.50 and $5 or $2.50"),
        ("Give {frac} of them, {mult,twice} as many", "Give half of them, twice as many"),
        ("{frac} * {n} = {frac*n}; {n} x {mult} = {n*mult}", "1/2 * 6 = 3; 6 x 2 = 12"),
        ("a {die,d4} die: 1 / {die} each", "a six-sided die: 1 / 6 each"),
        ("{frac,Half} go. {fruit,apple}s stay.", "Half go. Apples stay."),
        ("{n}-{fruit} pie", "6-apple pie"),
        ("3 * 2 = <<3*2={3*2}>>{3*2} {fruit}s", "3 * 2 = 6 apples"),
        ("3 * 2 = <<3*2={3*2}>> {3*2}", "3 * 2 = 6"),
        ("so <<{n}-{n}*{frac}>>={n*frac}", "so =3"),
        ("= <<{n}>>={n}", "=6"),
        ("{'up' if price > 2 else 'down'}  twice", "Up twice"),
        ("it is {price:.2f} or {debt:,} or {frac:.0%}", "it is 2.50 or -1,234 or 50%"),
        ("{n*2,ten} {max(n, 9)} {'a, b' if n else 'c'} {n + 1, forty-five}", "12 9 a, b 7"),
        ("at {n}:{n:02d}", "at 6:06"),
        ("on {days[0]} {fruit[0]}", "on Monday a"),
        ("#### {mult}", "#### 2"),
        ("no slots", "no slots"),
    ],
)
def test_rendering(annotated: str, text: str) -> None:
    assert Text(annotated).render(VALUES) == text


def test_names_and_defaults_of_the_slots() -> None:
    text = Text("{a,1} and {b, two} are {a+c} {a,7}")
    assert text.names == {"a", "b", "c"}
    assert text.defaults == {"a": "1", "b": "two"}


@pytest.mark.parametrize(
    ("annotated", "fault"),
    [
        ("{}", "empty slot"),
        ("{ , x}", "empty slot"),
        ("{n", "a lone '{' near '{n'"),
        ("n} more", "a lone '}' near 'n} more'"),
        ("{n +}", "cannot read 'n +'"),
        ("{n.real}", "attribute access"),
        ("{n {n}", "a lone '{'"),
        ("{n}" * 3000, "at most 2000 slots"),
        ("x" * 60_000, "at most 20000 characters"),
    ],
)
def test_faulty_slots_are_named(annotated: str, fault: str) -> None:
    with pytest.raises(ExpressionError) as failure:
        Text(annotated)
    assert fault in str(failure.value)
    assert "\n" not in str(failure.value)


def test_a_slot_without_a_value_is_named() -> None:
    with pytest.raises(ExpressionError, match="unknown name 'm' in 'm \\* 2'"):
        Text("{m * 2}").render(VALUES)


def test_the_published_form_of_sections() -> None:
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
def test_faulty_sections_are_named(annotated: str, fault: str) -> None:
    with pytest.raises(ExpressionError) as failure:
        Sections.split(annotated)
    assert fault in str(failure.value)
