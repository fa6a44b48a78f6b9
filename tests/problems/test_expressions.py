"""The evaluator: exact on numbers, strict about what it evaluates, never long about it."""

from __future__ import annotations

import contextlib
import time
from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cca.errors import CcaError
from cca.problems.templates.exact_numbers import ExpressionError, Worded
from cca.problems.templates.expressions import compiled, evaluate

HALF = Worded("half", Fraction(1, 2))


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("1 + 2 * 3", 7),
        ("0.1 + 0.2 == 0.3", True),
        ("7 / 2", Fraction(7, 2)),
        ("6 / 2", 3),
        ("7 // 2", 3),
        ("-7 // 2", -4),
        ("7 % 4", 3),
        ("2 ** 10", 1024),
        ("n * (1 - frac)", 10),
        ("Fraction(frac) * n", 10),
        ("int(n * frac) - 1", 9),
        ("int(7.9) + int(-7.9)", 0),
        ("int('12')", 12),
        ("round(2.5)", 3),
        ("round(2.345, 2)", Fraction(235, 100)),
        ("is_int(n * 0.07 * 100)", True),
        ("is_int(n / 3)", False),
        ("divides(n, 5) and not divides(n, 3)", True),
        ("divides(n, 0)", False),
        ("3 < n <= 20 < 21", True),
        ("3 < n < 20", False),
        ("day in ['Friday', 'Saturday']", True),
        ("day not in ('Monday',)", True),
        ("'late' if day == 'Friday' else 'early'", "late"),
        ("day[0]", "F"),
        ("frac[1]", Fraction(1, 2)),
        ("frac == 'half' and frac == 0.5", True),
        ("[1, 2, 3][:2]", [1, 2]),
        ("max(3, n, 7) - min(4, 5)", 16),
        ("[1, 2] * 2 + [3]", [1, 2, 1, 2, 3]),
        ("list(np.arange(1, 2, 0.25))", [1, Fraction(5, 4), Fraction(3, 2), Fraction(7, 4)]),
        ("math.ceil(7 / 2) + math.floor(7 / 2)", 7),
        ("format_frac(7 / 4)", "1 3/4"),
        ("numbers_within(2, 4)[-1]", Worded("four", 4)),
        ("“Friday” == day", True),
        ("n × 2 ÷ 5 − 1", 7),
        ("class", "7b"),
    ],
)
def test_values(expression: str, expected: object) -> None:
    values = {"n": 20, "frac": HALF, "day": "Friday", "class": "7b"}
    found = evaluate(expression, values)
    assert found == expected
    assert type(found) is type(expected)


def test_a_number_in_words_can_stand_on_either_side() -> None:
    for expression in ("frac * 6", "6 * frac", "frac + 2.5", "2.5 + frac", "3.5 - frac", "1.5 / frac"):
        assert evaluate(expression, {"frac": HALF}) == 3, expression
    assert evaluate("frac < 1 and 1 > frac and -frac < 0 and abs(frac) >= 0.5", {"frac": HALF})


@pytest.mark.parametrize(
    "expression",
    [
        "().__class__", "n.real", "n.lower()", "f'{n}'", "{'a': 1}", "{1, 2}", "[i for i in range(3)]",
        "sum(i for i in range(3))", "len([1])", "np.arange(3) * 2", "np.arange(3) + np.arange(3)",
        "np.random.randint(1, 3)", "'%d' % n", "n & 1", "np.arange", "n.__class__()", "[].append(1)",
        "np.load('x')", "__import__('os')", "__builtins__", "_n", "eval('1')", "open('/etc/passwd')", "lambda: 1",
        "(x := 5)", "{**{'a': 1}}", "b'1'", "1j", "...", "None", "~n", "n @ n", "n << 900", "round(n, ndigits=2)",
        "max(*[1, 2])", "range(3)(1)", "sample([1])", "9 ** 9 ** 9", "2 ** 10000", "2 ** -10000", "10 ** 18 * 10",
        "1e400", "range(10 ** 12)", "list(range(10 ** 6))", "np.arange(0, 10 ** 9, 0.001)",
        "numbers_within(0, 10 ** 9)", "'a' * 10 ** 9", "[0] * 10 ** 9", "10 ** 9 * [0]",
        "('a' * 9000) + ('a' * 9000)", "(" * 300 + "1" + ")" * 300, "-" * 4000 + "1", "1" + "+1" * 2400,
        "[" * 60 + "]" * 60, "'" + "a" * 200_000 + "'", "9" * 4500, "n +", "", "\x00",
    ],
)  # fmt: skip
def test_hostile_or_broken_expressions_are_refused_at_once(expression: str) -> None:
    started = time.process_time()
    with pytest.raises(CcaError) as refusal:
        evaluate(expression, {"n": 5})
    assert time.process_time() - started < 0.5
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 400


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("n / (n - 5)", "division by zero"),
        ("m + 1", "unknown name 'm'"),
        ("n + 'apples'", "expected a number for a sum, got 'apples'"),
        ("'apples' / 2", "expected a number for a division"),
        ("[1, 2][7]", "out of range"),
        ("iz_int(3)", "did you mean 'is_int'"),
        ("[i for i in [n]]", "a comprehension is not allowed in a template"),
        ("f'{n}'", "an f-string is not allowed in a template"),
        ("day.lower()", "unknown function 'day.lower'"),
        ("sample([n])", "sample() is only allowed in #init lines"),
    ],
)
def test_a_failure_is_told_with_its_expression(expression: str, reason: str) -> None:
    with pytest.raises(ExpressionError, match=r"^[^\n]*$") as failure:
        evaluate(expression, {"n": 5})
    assert reason in str(failure.value)


def test_names_are_those_read_from_the_values() -> None:
    assert compiled("n * k if 'n' in names else int(m)").names == {"n", "k", "m", "names"}


NUMBERS = st.one_of(st.integers(-50, 50), st.decimals(-50, 50, places=2))


@st.composite
def reckonings(draw: st.DrawFn, depth: int = 2) -> tuple[str, Fraction]:
    """(an expression, its value reckoned apart in Fractions)"""
    if depth == 0 or draw(st.booleans()):
        number = draw(NUMBERS)
        return f"({number})", Fraction(str(number))
    (left, one), (right, other) = draw(reckonings(depth=depth - 1)), draw(reckonings(depth=depth - 1))
    operator = draw(st.sampled_from(["+", "-", "*", "/", "//", "%"] if other else ["+", "-", "*"]))
    result = {
        "+": lambda: one + other,
        "-": lambda: one - other,
        "*": lambda: one * other,
        "/": lambda: one / other,
        "//": lambda: Fraction(one // other),
        "%": lambda: one % other,
    }[operator]()
    return f"({left} {operator} {right})", result


@given(reckonings())
def test_arithmetic_equals_fractions(reckoning: tuple[str, Fraction]) -> None:
    expression, expected = reckoning
    assume(max(abs(expected.numerator), expected.denominator) < 10**6)
    found = evaluate(expression, {})
    assert found == expected
    assert type(found) is (int if expected.denominator == 1 else Fraction)


@given(st.text(alphabet="n0159.+-*/%()[]{},<>=! '\"_:aifxor", max_size=60))
def test_any_text_gives_a_value_or_a_refusal(text: str) -> None:
    with contextlib.suppress(ExpressionError):
        evaluate(text, {"n": 3})
