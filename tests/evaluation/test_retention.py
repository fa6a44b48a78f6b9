"""Retention sets divided: text that is fitted to is never reported on."""

from __future__ import annotations

import random

import tiny_world
from cca.evaluation.retention import fitted, halves, judging, retention_texts
from cca.problems.problem import Problem


def problems(prompts: list[str]) -> list[Problem]:
    return [Problem(id=f"p{i}", template="t", prompt=prompt, answer="1") for i, prompt in enumerate(prompts)]


def prompts(own: list[Problem]) -> set[str]:
    return {problem.prompt for problem in own}


def test_a_prompt_that_comes_twice_stays_in_one_part() -> None:
    given = problems([f"question {i % 20}" for i in range(60)])
    guard, reported = halves(given)
    assert len(guard) + len(reported) == len(given)
    assert not prompts(guard) & prompts(reported)
    assert prompts(fitted(given)) | prompts(judging(given)) == prompts(guard)
    assert not prompts(fitted(given)) & prompts(judging(given))


def test_parts_are_of_equal_size_and_do_not_depend_on_the_order_of_the_rows() -> None:
    given = problems([f"question {i}" for i in range(40)])
    mixed = random.Random(0).sample(given, len(given))
    for part in (fitted, judging):
        assert len(part(given)) == 10
        assert prompts(part(given)) == prompts(part(mixed))
    assert [len(half) for half in halves(given)] == [20, 20]


def test_what_one_set_reports_is_not_fitted_to_in_another() -> None:
    grader, first = tiny_world.grader(), tiny_world.problems(40)
    second = fitted(first)
    reported = {grader.prompt_ids(problem) for problem in halves(second)[1]}
    texts = {text.prompt for text in retention_texts({"first": first, "second": second}, grader)}
    assert len(reported) > 3
    assert texts
    assert not texts & reported
