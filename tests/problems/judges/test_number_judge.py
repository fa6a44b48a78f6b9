"""Any way of writing a number reads back as that number, wherever a completion puts it."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cca.problems.judges import make_judge
from cca.problems.judges.judge import Judgement, Verdict
from cca.problems.judges.numbers import NumberJudge, is_number, read_number
from cca.problems.judges.quantities import Quantity
from cca.problems.templates.vocabulary import number_words

PLACES = (
    "The final answer is {}.",
    "The final answer is {}",
    "So 3 + 4 = 7.\nThe final answer is {} pens. Then 12 more.\n",
    "The answer is **{}**.",
    "7 pens and so\n#### {}",
    "Answer: {}",
    "**Final Answer**\n\n\\boxed{{{}}}",
    "3 * 4 = 12, thus $\\boxed{{{}}}$, in 2 steps.",
    "<answer>{}</answer>",
    "First 3 pens, then in all {}",
    "It is {}\n\nQ: Tom has 8 pens.\nA: The final answer is 8.",
    "<think>8 or 9? The final answer is 9.</think>It is {}.",
)


def spellings(value: Fraction) -> list[str]:
    """Ways to write ``value``, a decimal of at most three places."""
    sign, size = ("-" if value < 0 else ""), abs(value)
    plain = f"{float(size):.3f}".rstrip("0").rstrip(".")
    grouped = f"{int(size):,}" + (f".{plain.partition('.')[2]}" if "." in plain else "")
    ways = [
        sign + plain, sign + grouped, f"{sign}${grouped}", f"{sign}€{plain}", f"{sign}{grouped} pens",
        f"${sign}{plain}$", f"\u2212{grouped}" if sign else grouped, f"{sign}{grouped.replace(',', '{,}')}",
        f"{sign}{grouped.replace(',', chr(0xA0))}", f"{sign}{plain}" + ("00" if "." in plain else ".00"),
        f"{sign}{size.numerator}/{size.denominator}", f"{sign}{plain}e0",
        f"{sign}\\frac{{{size.numerator}}}{{{size.denominator}}}",
    ]  # fmt: skip
    whole, part = divmod(size, 1)
    if whole and part:
        ways += [f"{sign}{whole} {part.numerator}/{part.denominator}"]
        ways += [f"{sign}{whole}\\frac{{{part.numerator}}}{{{part.denominator}}}"]
    return ways


@settings(max_examples=100, deadline=None)
@given(st.integers(-10_000_000, 10_000_000), st.sampled_from([1, 2, 10, 100, 1000]), st.sampled_from(PLACES))
def test_every_spelling_of_a_number_reads_back(numerator: int, denominator: int, place: str) -> None:
    value = Fraction(numerator, denominator)
    judge = NumberJudge()
    for spelling in spellings(value):
        text = place.format(spelling)
        assert judge.read(text) == Quantity(value), text
        assert judge(text, str(value)).verdict is Verdict.RIGHT
        assert judge(text, str(value + Fraction(1, 7))).verdict is Verdict.WRONG
        assert is_number(spelling) or spelling.endswith("pens")


@given(st.integers(0, 10**9 - 1), st.booleans())
def test_numbers_in_words_read_back(number: int, negative: bool) -> None:
    words = number_words(number)
    text = f"The final answer is {'minus ' if negative else ''}{words}."
    assert NumberJudge().read(text) == Quantity(Fraction(-number if negative else number))


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.one_of(st.sampled_from("0123456789.,-/%$ e^{}\\"), st.characters()), max_size=40))
def test_no_text_breaks_the_judge(text: str) -> None:
    answer = make_judge("auto")(text, "42").answer
    if answer is not None:  # what was read is itself a number, the same one
        assert read_number(answer) is not None
        assert make_judge("number")(f"The final answer is {answer}.", answer).verdict is Verdict.RIGHT


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The final answer is 42.00.", "42"),
        ("The final answer is 1,234.50 dollars.", "1234.5"),
        ("The final answer is -.5.", "-0.5"),
        ("The final answer is 1/3.", "1/3"),
        ("The final answer is 2 2/3.", "8/3"),
        ("The final answer is 12.5%.", "12.5%"),
        ("The final answer is 2.5 million.", "2500000"),
        ("The final answer is forty-two.", "42"),
        ("Nothing.", None),
    ],
)
def test_the_answer_is_shown_in_one_notation(text: str, answer: str | None) -> None:
    assert NumberJudge()(text, "1").answer == answer


def test_tolerance_is_absolute_and_exact() -> None:
    judge = make_judge("number", tolerance="0.01")
    assert judge("The answer is 33.33", "33.34").verdict is Verdict.RIGHT
    assert judge("The answer is 33.33", "33.341").verdict is Verdict.WRONG
    assert make_judge("number")("0.1 + 0.2 = 0.3", "0.30000000000000004") == Judgement(Verdict.WRONG, "0.3")


def test_a_number_for_auto() -> None:
    for gold in ("18", "$1,200", "-5", "50%", "1/2", "2.5 million", "18."):
        assert is_number(gold), gold
    for gold in ("18 pens", "3:30", "2 Chronicles", "B", "forty-two", "1, 2", "x2", "", "3 - 1"):
        assert not is_number(gold), gold
