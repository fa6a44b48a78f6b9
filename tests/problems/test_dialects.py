"""Ways to write a template that the published ones at hand do not use, and that hand-written ones plausibly do."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pytest

from cca.problems.templates.exact_numbers import parsed_number
from cca.problems.templates.soundness import last_number
from cca.problems.templates.template import Template, TemplateError

TWO = ("$n = range(3, 80)", "$k = range(2, 60)")


def made(
    question: str, init: Sequence[str] = TWO, conditions: Sequence[str] = (), answer: str = "n+k", worked: str = ""
) -> Template:
    lines = [question, "#init:", *(f"- {line}" for line in init), "#conditions:", *(f"- {c}" for c in conditions)]
    annotated = "\n".join([*lines, f"#answer: {answer}"])
    worked = worked or "That is {" + answer + "}.\n#### {" + answer + "}"
    return Template.parse("dialect", {"question_annotated": annotated, "answer_annotated": worked})


DIALECTS = {
    "doubled and nested braces": made(
        "{{n,2}} and {k,3}", worked="{n} + {k} = { {n} + {k} }\n#### {{n+k}}", answer="{n} + {k}"
    ),
    "an answer below zero turned round": made("{n} {k}", answer="-(-n//k)", conditions=["n % k == 0"]),
    "is": made("{n} {k}", TWO, ["is_int(n/2) is True", "n is not k"]),
    "unknown fractions": made("{f,a third} of {n} {k}", ["f = sample(shares)", *TWO], ["is_int(n*f)"], "n*f+k"),
    "tens": made("{n} {k}", ["$n = range(200, 900)", TWO[1]], (), "round(n, -1) + k"),
    "ends in commas": made("{n} {k}", ["$n = range(2, 90),", "$k = range(2, 60);"]),
    "names in a list": made("{n} {k}", ["[n, k] = sample(range(2, 90), 2)"]),
    "one range for several": made("{n} {k}", ["$n, $k = range(2, 90)"], ["n != k"]),
    "in for equals": made("{n} {k}", ["$n in range(2, 90)", "$k in [2, 3, 4]"]),
    "a comment behind a line": made("{n} {k}", ["$n = range(2, 90)  # coins", TWO[1]], ["n > k # more"]),
    "conditions in one line": made("{n} {k}", TWO, ["n > k, is_int(n / k)", "n != 8;"], "n / k"),
    "signs of mathematics": made("{n} {k}", TWO, ["k ≤ n", "n ≥ 4", "n ≠ 9", "k <> 7"], "n×k"),
    "thousands": made("{n:,} {k:,d}", ["$n = range(10000, 90000, 1000)", "$k = range(1000, 9000)"]),
    "clock": made("It is {h,8}:{n:02d}. {k} minutes on?", ["$h = range(1, 12)", "$n = range(1, 30)", TWO[1]]),
    "percent": made("{n}% of {k}", TWO, ["is_int(n / 100 * k)"], "n / 100 * k"),
    "cents": made("{n} at ${k:.2f}", [TWO[0], "$k = np.arange(0.25, 5, 0.25)"], ["is_int(n * k)"], "int(n * k)"),
    "fractions as text": made(
        "{k,1/2} of {n}",
        [TWO[0], "$k = sample(['1/2', '1/3'])"],
        ["is_int(n * Fraction(k))"],
        "int(n * Fraction(k))",
    ),
    "not ASCII": made("{a,Zoë}’s crêpes: {n} – {k} at €2…", [*TWO, "a = sample(['Zoë', 'Łukasz', '李雷'])"]),
    "unknown lists": made("{a,Kai} of {b,Bonn}: {n}, {k}", [*TWO, "a = sample(humans)", "b = sample(towns)"]),
    "plural": made("{n} {'cat' if n == 1 else 'cats'}, {k}", ["$n = range(1, 40)", TWO[1]]),
    "range of a range": made("{n} {k}", ["$n = range(3, 80)", "$k = range(1, n)"]),
    "several lines": made("{n} {k}", ["$n = sample([3, 4,\n 5, 6,\n 7, 8])", TWO[1]]),
    "carriage returns": made("{n} {k}\r", [f"{line}\r" for line in TWO], ["n > k\r"]),
    "whole solutions": made("{n} {k}", [*TWO, "$total = range(2, 300)"], ["n + k == total"], "total"),
    "names in brackets": made("{n} {k}", ["(n, k) = sample(range(2, 90), 2)"]),
    "an expression around a draw": made("{n} {k}", ["$n = sample(range(2, 30)) * k", TWO[1]]),
    "numpy draws": made("{n} {k}", ["$n, $k = np.random.randint(2, 90, 2)"], ["n != k"]),
    "a list of numpy draws": made("{n} {k}", [TWO[0], "$k = list(np.random.randint(2, 90, 50))"]),
}  # fmt: skip


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_dialect_is_understood(dialect: str) -> None:
    template, generator = DIALECTS[dialect], np.random.default_rng(1)
    instances = [template.sample(generator) for _ in range(20)]
    assert len({instance.question for instance in instances}) > 12
    for instance in instances:
        assert not set("{}") & set(instance.question + instance.solution)
        assert last_number(instance.solution) == parsed_number(instance.answer)
        assert all(condition(instance.values) for condition in template.conditions)


def test_draws_of_numpy_leave_out_the_upper_end() -> None:
    for count in ("", ", 1", ", 20"):
        items = made("{n}", [f"$n = np.random.randint(2, 5{count})"], answer="n").draws[0].items({})
        assert items == range(2, 5)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("$n = np.random.randint(2, 5, 0)", "expected a count of at least 1 for np.random.randint(), got 0"),
        ("$n = np.arange(1, 9) * 5", "expected a number for a product"),
        ("$n = [i for i in range(9)]", "a comprehension is not allowed in a template"),
        ("$n = sample([1]) + sample([2])", "expected one sample() in a line, got 2"),
        ("a = sample(names, 2)", "expected 2 names for 2 items"),
        ("a, b = sample(names, k=2)", "expected sample(list) or sample(list, count)"),
    ],
)
def test_what_no_published_template_uses_is_refused_with_a_reason(line: str, fault: str) -> None:
    with pytest.raises(TemplateError, match=re.escape(fault)):
        made("{n}", [line], answer="n").sample(np.random.default_rng(0))


@pytest.mark.parametrize(
    "condition", ["n & 1", "n | k > 3", "(n > 3) ^ (k > 3)", "(n > 3) & (n).real"], ids=lambda text: text
)
def test_logic_on_numbers_is_refused(condition: str) -> None:
    with pytest.raises(TemplateError):
        made("{n} {k}", TWO, [condition])
