"""What a circuit's size comes to: counts and shares, of every kind alike."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tiny_world
from cca.circuits.settings import Size
from cca.errors import CcaError
from cca.models.anatomy.anatomy import Anatomy, anatomy_of
from cca.models.anatomy.components import KINDS

ANATOMY = anatomy_of(tiny_world.model())  # 2 layers of 4 q, 2 k, 2 v heads and 48 neurons
TOTALS = {"q": 8, "k": 4, "v": 4, "neuron": 96}


@pytest.fixture
def anatomy() -> Anatomy:
    return ANATOMY


@pytest.mark.parametrize(
    ("text", "kinds", "expected"),
    [
        (12, ["neuron"], {"neuron": 12}),
        ("12", ["neuron"], {"neuron": 12}),
        (28, KINDS, {"q": 2, "k": 1, "v": 1, "neuron": 24}),
        ("25%", KINDS, {"q": 2, "k": 1, "v": 1, "neuron": 24}),
        ("25 % of components", ["neuron"], {"neuron": 28}),  # of 112 components in all
        ("100%", ["q"], {"q": 8}),
        (1000, ["q", "k"], {"q": 8, "k": 4}),
        (10, KINDS, {"q": 1, "k": 0, "v": 0, "neuron": 9}),
        (1, KINDS, {"q": 0, "k": 0, "v": 0, "neuron": 1}),
        ("0.001%", ["q", "neuron"], {"q": 0, "neuron": 1}),
    ],
)
def test_counts(anatomy: Anatomy, text: str | int, kinds: list[str], expected: dict[str, int]) -> None:
    assert Size.parse(text).counts(anatomy, kinds, "paper") == expected


@pytest.mark.parametrize("rows", ["paper", "full", "up"])
def test_a_share_of_parameters_is_that_of_the_rows_trained(anatomy: Anatomy, rows: str) -> None:
    (count,) = Size.parse("2% of parameters").counts(anatomy, ["neuron"], rows).values()
    one = {"paper": 32, "up": 32, "full": 96}[rows]  # scalars a neuron owns, of 32 inputs and outputs
    assert count == int(0.02 * anatomy.total_parameters / one)
    taken = list(anatomy.components(["neuron"]))[:count]
    assert anatomy.parameter_count(taken, rows) <= 0.02 * anatomy.total_parameters


@given(amount=st.integers(1, 200), kinds=st.sets(st.sampled_from(KINDS), min_size=1))
def test_a_count_is_met_in_proportion(amount: int, kinds: set[str]) -> None:
    counts = Size.parse(amount).counts(ANATOMY, sorted(kinds), "paper")
    available = sum(TOTALS[kind] for kind in kinds)
    assert sum(counts.values()) == min(amount, available)
    for kind, number in counts.items():
        assert abs(number - min(1, amount / available) * TOTALS[kind]) < 1


@pytest.mark.parametrize(
    "text", ["", "0", "-3", "1.5", "0%", "101%", "5% of heads", "x", "٣", "1e3", "nan%", 0, "10 %of components"]
)
def test_other_sizes_are_refused(text: str | int) -> None:
    with pytest.raises(CcaError, match="circuit size: expected a size such as 32") as refusal:
        Size.parse(text)
    assert "\n" not in str(refusal.value)


def test_kinds_the_model_lacks_are_refused(anatomy: Anatomy) -> None:
    with pytest.raises(CcaError, match="this model has none"):
        Size.parse(3).counts(anatomy, [], "paper")
