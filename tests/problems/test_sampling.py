"""The search for values: against brute force, on hard conditions, and where there is nothing to find."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cca.problems.templates.draws import parse_draws
from cca.problems.templates.exact_numbers import ExpressionError, Worded
from cca.problems.templates.expressions import compiled
from cca.problems.templates.sampling import Sampler, Unsatisfiable


def sampler(init: Sequence[str], conditions: Sequence[str] = ()) -> Sampler:
    return Sampler([draw for line in init for draw in parse_draws(line)], [compiled(line) for line in conditions])


def samples(
    init: Sequence[str], conditions: Sequence[str] = (), count: int = 30, seed: int = 1
) -> list[dict[str, Any]]:
    found, generator = sampler(init, conditions), np.random.default_rng(seed)
    return [found.sample(generator) for _ in range(count)]


CONDITIONS = [
    "a < b", "a + b == c", "divides(a * b, c)", "is_int(a / c)", "a * 0.5 == b", "c == a * b - 3", "a != b",
    "not divides(a, 2)", "a % 3 == b % 3", "2 < a <= 7", "a > 4 or b > 4", "int(a / 3) == b // 2", "c - a == b - 1",
    "abs(a - b) <= 1", "is_int(half * c)", "round(a / 2) < c", "min(a, b) == c",
]  # fmt: skip


@settings(max_examples=60)
@given(st.lists(st.sampled_from(CONDITIONS), max_size=4, unique=True), st.integers(0, 2**32))
def test_solutions_are_those_of_brute_force(conditions: list[str], seed: int) -> None:
    init = [
        "$a = range(1, 10)",
        "$b = range(0, 12, 2)",
        "c = range(1, 9)",
        "half = sample([('half', 0.5), ('third', 1/3)])",
    ]
    found = sampler(init, conditions)
    every = itertools.product(range(1, 10), range(0, 12, 2), range(1, 9), (compiled("1/2")({}), compiled("1/3")({})))
    expected = set()
    for values in every:
        named: dict[str, Any] = dict(zip(("a", "b", "c", "half"), values, strict=True))
        if all(_holds(condition, named) for condition in conditions):
            expected.add(values)
    if not expected:
        with pytest.raises(Unsatisfiable) as failure:
            found.sample(np.random.default_rng(seed))
        assert failure.value.proven
        return
    values = found.sample(np.random.default_rng(seed))
    assert tuple(_plain(values[name]) for name in ("a", "b", "c", "half")) in expected
    for group in found._groups:
        wanted = {tuple(one[("a", "b", "c", "half").index(name)] for name in group.targets) for one in expected}
        assert {tuple(map(_plain, solution)) for solution in group.solutions or ()} == wanted


def _holds(condition: str, values: dict[str, Any]) -> bool:
    try:
        return bool(compiled(condition)(values))
    except ExpressionError:
        return False


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, Worded) else value


def test_small_groups_are_sampled_evenly() -> None:
    counts = Counter((one["a"], one["b"]) for one in samples(["a = range(4)", "b = range(4)"], ["a < b"], 3000))
    assert len(counts) == 6
    assert max(counts.values()) < 1.25 * min(counts.values())


def test_the_same_seed_gives_the_same_values_whatever_was_sampled_before() -> None:
    init = ["n = sample(names)", *(f"{name} = range(2, 60)" for name in "abcd")]
    found = sampler(init, ["a * b == c * d", "a < c < b"])
    first = [found.sample(np.random.default_rng(7)) for _ in range(3)]
    assert first[0] == first[1] == first[2]
    assert found.sample(np.random.default_rng(8)) != first[0]


@pytest.mark.parametrize(
    "conditions",
    [
        ["a + b + c + d == total", "divides(a * b, c)", "d == 2 * a"],
        ["is_int(100 * (a + b) / (c + d + total))", "a + b < c"],
        ["total == a * b + c * d", "is_int((a + c) / 7)"],
        ["a < b < c < d < total", "divides(total, a)", "divides(total, c)", "a > 1"],
        ["100 * a == 37 * b", "c * d == 12 * total"],
    ],
)
def test_hard_conditions_are_met_quickly(conditions: list[str]) -> None:
    init = [f"{name} = range(1, 150)" for name in ("a", "b", "c", "d")] + ["total = range(1, 600)"]
    found = samples(init, conditions, count=10)
    for values in found:
        assert all(compiled(condition)(values) for condition in conditions)
    assert len({tuple(values.values()) for values in found}) >= 8


def test_an_equation_is_solved_for_the_variable_that_stands_alone() -> None:
    init = ["w = sample(fractions)", *(f"{name} = range(1, 100)" for name in "abcd"), "total = range(5000)"]
    found = sampler(init, ["total == a * b - c * d + int(w * a)"])
    assert found._groups[0].steps[-1].solved is not None
    values = [found.sample(np.random.default_rng(seed)) for seed in range(20)]
    for one in values:
        assert one["total"] == one["a"] * one["b"] - one["c"] * one["d"] + int(one["w"].value * one["a"])


def test_an_impossible_template_is_proven_so() -> None:
    with pytest.raises(Unsatisfiable, match="a < b; b < a") as failure:
        samples(["a = range(2, 100)", "b = range(2, 100)"], ["a < b", "b < a"])
    assert failure.value.proven
    with pytest.raises(Unsatisfiable, match="2 > 3") as failure:
        samples(["a = range(5)"], ["2 > 3"])
    assert failure.value.proven


MILLION = [f"${name} = range(1, 10 ** 6)" for name in "abc"]
HOSTILE = {
    "equation": (MILLION, ["3 * a == 1"]),
    "equation of several": (MILLION, ["2 * a + 4 * b + 6 * c == 1"]),
    "nested": (MILLION, ["a < b", "b < c", "c < a"]),
    "solved in a circle": (MILLION, ["2 * a == b", "2 * b == c", "c == a"]),
    "solved out of range": (MILLION, ["a == b / 3", "b == c * 7", "c == 2 * a + 1"]),
    "fractions": (MILLION, ["a / 7 + b / 11 + c / 13 == 1 / 17"]),
    "powers": (MILLION, ["a > 0 and a ** 2 == 2 * b ** 2"]),
    "each alone": ([f"$x{n} = range(1, 10 ** 6)" for n in range(30)], [f"3 * x{n} == 1" for n in range(30)]),
    "a long chain": ([f"$x{n} = range(1, 10 ** 6)" for n in range(90)], [f"2 * x{n} == x{n + 1}" for n in range(89)]),
    "members of a range": (MILLION, ["(a + 0.5) in range(10 ** 6)"]),
    "repeated lists": (MILLION, ["[a] * 9999 == b"]),
    "dependent lists": (["n = range(9000, 9999)", "k = sample(list(range(1, n)))"], ["k < 0"]),
    "mapped lists": (["n = range(900, 999)", "k = sample(list(range(1, n))) * n"], ["k < 0"]),
    "long lists": ([f"{name} = numbers_within(1, 9999)" for name in "abc"], ["a + b + c < 0"]),
    "lists of fractions": ([f"{name} = np.arange(0, 100, 0.01)" for name in "abc"], ["a + b + c == 0.005"]),
    "more lists": ([f"x{n} = numbers_within(1, 9999)" for n in range(90)], ["x1 < 0"]),
    "more conditions": (MILLION, [" < ".join("abc" * 100)] * 90),
    "worded": ([f"{name} = sample(fractions)" for name in "abcdefg"], ["is_int(a * b * c * d * e * f * g * 1.37)"]),
}


@pytest.mark.parametrize(("init", "conditions"), HOSTILE.values(), ids=HOSTILE)
def test_impossible_conditions_are_refused_within_a_second(init: list[str], conditions: list[str]) -> None:
    started = time.process_time()
    with pytest.raises(ExpressionError, match=r"meets? the conditions \(|expected at most") as failure:
        samples(init, conditions)
    assert time.process_time() - started < 1
    assert not getattr(failure.value, "proven", False)


def test_a_condition_that_cannot_be_reckoned_is_named() -> None:
    with pytest.raises(Unsatisfiable, match="not supported between"):
        samples(["a = range(5)", "b = sample(['x', 'y'])"], ["a < b"])


def test_domains_that_depend_on_earlier_values() -> None:
    for values in samples(
        ["n = range(5, 30)", "k = range(1, n)", "total = n + k", "m = sample(range(1, 4)) * 10"], ["divides(total, 7)"]
    ):
        assert values["k"] < values["n"]
        assert values["total"] == values["n"] + values["k"]
        assert values["total"] % 7 == 0
        assert values["m"] in (10, 20, 30)


def test_several_targets_at_once() -> None:
    init = [
        "a, b, c = sample(colors, 3)",
        "$x, $y = sample(list(range(3, 9)), 2)",
        "item, price = sample([('pen', 2), ('book', 9)])",
        "d1, d2, d3 = sample_sequential(weekdays, 3)",
        "p, q = 4, sample([5, 6])",
        "man, woman, any_one = sample(names, 3)",
        "boy = sample(names_male)",
    ]
    runs = set()
    for values in samples(init, ["x < y", "price < 2 * x"], count=60):
        assert len({values["a"], values["b"], values["c"]}) == 3
        assert values["x"] < values["y"]
        assert (values["item"], values["price"]) in (("pen", 2), ("book", 9))
        assert len({values["man"], values["woman"], values["any_one"], values["boy"]}) == 4
        runs.add((values["d1"], values["d2"], values["d3"]))
    assert ("Saturday", "Sunday", "Monday") in runs
    assert ("Monday", "Wednesday", "Friday") not in runs
    assert len(runs) == 7


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("name", "expected 'name = values'"),
        ("= range(3)", "expected 'name = values'"),
        ("_x = range(3)", "without a leading underscore"),
        ("a, b = sample(colors, 3)", "expected 3 names for 3 items"),
        ("a, b, c = sample(['x', 'y'], 3)", "too few items"),
        ("a = sample([])", "too few items"),
        ("a, b = sample([(1, 2, 3)])", "expected items of 2 parts"),
        ("a = sample([1, sample([2])])", "expected one sample() in a line"),
        ("a = sample(range(10 ** 9))", "expected a range of at most"),
        ("a, " * 2000 + "a", "expected 'name = values'"),
    ],
)  # fmt: skip
def test_faulty_draws_are_named(line: str, fault: str) -> None:
    with pytest.raises(ExpressionError) as failure:
        [draw.items({}) for draw in parse_draws(line)]
    assert fault in str(failure.value)
    assert "\n" not in str(failure.value)
