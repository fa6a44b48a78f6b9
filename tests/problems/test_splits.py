"""Splits: the paper's shares, templates apart, the same question never in two splits."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cca.errors import CcaError
from cca.problems.problem import Problem
from cca.problems.task import Division, divide, draw_some

PAPER = (0.52, 0.08, 0.40)


def problems(templates: int, instances: int, distinct: int | None = None) -> list[Problem]:
    return [
        Problem(f"{t}-{i}", f"t{t}", f"question {t} {i % (distinct or instances)}", "1")
        for t in range(templates)
        for i in range(instances)
    ]


def test_the_papers_split_has_26_4_and_20_instances_of_every_template() -> None:
    parts = divide(problems(7, 50), PAPER)
    for part, size in zip(parts, (26, 4, 20), strict=True):
        assert Counter(problem.template for problem in part) == {f"t{t}": size for t in range(7)}


def test_by_template_no_template_is_in_two_splits() -> None:
    parts = divide(problems(50, 3), PAPER, Division("by-template"))
    templates = [{problem.template for problem in part} for part in parts]
    assert [len(own) for own in templates] == [26, 4, 20]
    assert sum(map(len, parts)) == 150


def test_unseen_templates_are_in_the_last_split_alone() -> None:
    train, validation, test = divide(problems(10, 10), PAPER, Division(unseen=0.3))
    seen = {problem.template for problem in train}
    assert len(seen) == 7
    assert {problem.template for problem in validation} <= seen
    assert len({problem.template for problem in test}) == 10


@given(st.integers(1, 6), st.integers(4, 30), st.integers(3, 12), st.integers(0, 9))
def test_nothing_is_lost_and_no_question_is_in_two_splits(t: int, i: int, distinct: int, seed: int) -> None:
    given_problems = problems(t, i, distinct)
    try:
        parts = divide(given_problems, PAPER, Division(seed=seed))
    except CcaError:
        return  # a part without problems: refused
    assert sorted(p.id for part in parts for p in part) == sorted(p.id for p in given_problems)
    questions = [{problem.prompt for problem in part} for part in parts]
    assert not any(questions[a] & questions[b] for a, b in ((0, 1), (0, 2), (1, 2)))


def test_small_templates_get_their_share_on_average() -> None:
    parts = divide(problems(200, 5), PAPER)
    assert [len(part) / 1000 for part in parts] == pytest.approx(PAPER, abs=0.04)


def test_the_seed_decides() -> None:
    given_problems = problems(3, 50)
    assert divide(given_problems, PAPER) == divide(given_problems, PAPER)
    assert divide(given_problems, PAPER, Division(seed=1)) != divide(given_problems, PAPER)
    assert draw_some(given_problems, 9, 0, "test") == draw_some(given_problems, 9, 0, "test")
    assert len(draw_some(given_problems, 9, 0, "test")) == 9


@pytest.mark.parametrize(
    ("templates", "instances", "rule", "message"),
    [(2, 9, "by-template", "needs at least 3 templates"), (1, 2, "within-templates", "is none")],
)
def test_too_few_to_split(templates: int, instances: int, rule: str, message: str) -> None:
    with pytest.raises(CcaError, match=message):
        divide(problems(templates, instances), PAPER, Division(rule))
