"""Numbers are written and read as a person does."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cca.problems.templates.exact_numbers import exact, parsed_number, round_half_away, rounded, written
from cca.problems.templates.vocabulary import LISTS, PEOPLE, fraction_words, number_words, spelled


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (6, "6"),
        (exact(Fraction(12, 2)), "6"),
        (exact(0.1) + exact(0.2), "0.3"),
        (Fraction(5, 2), "2.5"),
        (Fraction(-1, 4), "-0.25"),
        (Fraction(1, 3), "1/3"),
        (Fraction(1, 64), "0.015625"),
        (Fraction(1, 10**7 + 1), "0.00"),
    ],
)
def test_written(value: int | Fraction, text: str) -> None:
    assert written(value) == text


@given(st.integers(-(10**9), 10**9), st.integers(0, 6))
def test_a_written_decimal_reads_back(units: int, places: int) -> None:
    value = exact(Fraction(units, 10**places))
    assert parsed_number(written(value)) == value


@given(st.fractions(min_value=-1000, max_value=1000, max_denominator=500), st.integers(0, 4))
def test_rounding_goes_to_the_nearest_and_halves_go_away_from_zero(value: Fraction, digits: int) -> None:
    result = Fraction(round_half_away(value, digits))
    distance = abs(value - result)
    assert distance <= Fraction(1, 2 * 10**digits)
    if distance == Fraction(1, 2 * 10**digits):
        assert abs(result) > abs(value)
    assert parsed_number(rounded(value, digits)) == result


@pytest.mark.parametrize(
    ("value", "words"),
    [(0, "zero"), (13, "thirteen"), (42, "forty-two"), (120, "one hundred and twenty"), (2001, "two thousand and one")],
)
def test_number_words(value: int, words: str) -> None:
    assert number_words(value) == words


def test_fraction_words() -> None:
    assert [fraction_words(Fraction(*pair)) for pair in ((1, 2), (2, 3), (1, 10), (3, 17))] == [
        "half", "two-thirds", "one-tenth", "3/17",
    ]  # fmt: skip


def test_what_a_default_spells() -> None:
    assert spelled("12") == 12
    assert spelled("0.25") == Fraction(1, 4)
    assert spelled("forty-two").value == 42
    assert spelled("half").value == Fraction(1, 2)
    assert spelled("apple") == "apple"


def test_men_and_women_of_a_problem_never_share_a_name() -> None:
    assert not set(LISTS["names_male"]) & set(LISTS["names_female"])
    assert len(PEOPLE) == len(LISTS["names"])
