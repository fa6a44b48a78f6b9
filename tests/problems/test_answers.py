"""Every judge of prose on the table of tricky answers, and the promise of `finished` on every prefix of it."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from answer_cases import CHOICE, NUMBER, TEXT, Cases
from hypothesis import given, settings
from hypothesis import strategies as st

from cca.errors import CcaError
from cca.problems.judges import make_judge
from cca.problems.judges.judge import Judge, Judgement, StoppingJudge, Verdict, join_digits

GSM8K = Path(os.environ.get("CCA_GSM8K", ""))
"""Rows of GSM8K as published, JSON lines."""

TABLES = {"number": NUMBER, "text": TEXT, "choice": CHOICE, "auto": {**NUMBER, **TEXT}}
SUFFIX = ".5 million</think>5\n\nThe final answer is 9.\n#### 9\n<think>Q: 3</think>\\boxed{8}\nQ: 3\nA: B."

# What fuzzing found to be hard for `finished`, put together at random by hypothesis.
PIECES = [
    "The final answer is ", "the answer is ", "Final Answer is", "answer: ", "Answer:", "#### ", "\n#### ", "\\boxed{",
    "}", "{", "\n", "\n\n", " ", ". ", ".", "? ", "5", "42", "1,234", "-", "$", "%", " percent", " million", "/2",
    " 1/2", "½", "three", " and ", "a half", "<think>", "</think>", "Q:", "\nQ:", "\nQuestion:", "Question 2:",
    "</s>", "A", "B", "(C)", "B.", "J. ", "p.m. ", "Mr. ", "apples", "yes, ", "not ", "= ", "+ 3", "\\frac{1}{2}",
    "**", "答案是", "。", "<answer>", "1e3", "x10^3", ":30", "İ", "\u00a0", "'", " - ", "(", ")",
]  # fmt: skip


def rows(table: Cases) -> list[tuple[str, str, str]]:
    return [row for group in table.values() for row in group]


def misjudged(judge: Judge, table: Cases) -> list[str]:
    return [
        f"{text!r} with gold {gold!r}: expected {verdict}, got {judge(text, gold)}"
        for text, gold, verdict in rows(table)
        if judge(text, gold).verdict != verdict
    ]


@pytest.mark.parametrize("name", ["number", "text", "choice"])
def test_tricky_answers(name: str) -> None:
    assert misjudged(make_judge(name), TABLES[name]) == []


def test_auto_judges_numbers_as_numbers_and_words_as_words() -> None:
    judge = make_judge("auto")
    words = {"42 apples", "forty-two"}  # as golds these are texts: the task's author may mean every word
    numbers = {"all": [row for row in rows(NUMBER) if row[1] not in words]}
    assert misjudged(judge, numbers) == []
    assert misjudged(judge, TEXT) == []


def test_every_gold_of_the_table_is_readable_and_others_are_refused() -> None:
    for name, table in TABLES.items():
        judge = make_judge(name)
        for _, gold, _ in rows(table):
            judge.check_gold(gold)
    for name, gold in [("number", "Paris"), ("number", "3 to 5"), ("text", "..."), ("choice", "Z"), ("choice", "Bob")]:
        with pytest.raises(CcaError, match="gold answer") as refusal:
            make_judge(name).check_gold(gold)
        assert "\n" not in str(refusal.value)


def first_finished(judge: Judge, text: str) -> int | None:
    return next((end for end in range(len(text) + 1) if judge.finished(text[:end])), None)


def assert_settled(judge: Judge, text: str, gold: str) -> bool:
    """Once finished, every longer prefix of ``text`` is finished with the same judgement."""
    start = first_finished(judge, text)
    if start is None:
        return False
    settled = judge(text[:start], gold)
    for end in range(start + 1, len(text) + 1):
        assert judge.finished(text[:end]), (text[:start], text[:end])
        assert judge(text[:end], gold) == settled, (text[:start], text[:end])
    return True


@pytest.mark.parametrize("options", [{}, {"thinking": True}, {"final": False}], ids=str)
@pytest.mark.parametrize("name", list(TABLES))
def test_a_finished_verdict_never_changes(name: str, options: dict[str, bool]) -> None:
    judge = make_judge(name, **options)
    table = [row for row in rows(TABLES[name]) if len(row[0]) < 200]
    sample = table[:: 3 if not options and name == "number" else 8]
    finished = sum(assert_settled(judge, text + SUFFIX, gold) for text, gold, _ in sample)
    assert finished > len(sample) // 2  # the promise was put to the test


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join), st.sampled_from(["number", "text", "choice"]))
def test_a_finished_verdict_never_changes_on_random_texts(text: str, name: str) -> None:
    assert_settled(make_judge(name), text, "B" if name == "choice" else "5")


@pytest.mark.parametrize(
    ("name", "text", "gold", "verdict"),
    [
        ("auto", "So we add 10 to the result: 28 - 2", "2", "unreadable"),
        ("auto", "They baked 243 - 75 - 66 = 1", "102", "unreadable"),
        ("auto", "The final answer is no tickets were", "26", "unreadable"),
        ("auto", "20 + 14 = 34. The final answer is 3", "34", "unreadable"),
        ("auto", "Answer: 4", "4", "unreadable"),
        ("auto", "#### 4", "4", "unreadable"),
        ("auto", "<answer>4", "4", "unreadable"),
        ("auto", "\\boxed{4", "4", "unreadable"),
        ("auto", "40 + 2 = 42. Each costs $1,", "1", "unreadable"),
        ("auto", "I would say Par", "Par", "unreadable"),
        ("auto", "The answer is 42. Now to check", "42", "right"),
        ("auto", "So \\boxed{42}", "42", "right"),
        ("auto", "<answer>42</answer> as", "42", "right"),
        ("auto", "#### 42\nThen", "42", "right"),
        ("auto", "Paris. It lies on the Se", "Paris", "right"),
        ("auto", "42 pens\n\nQ: Tom has", "42", "right"),
        ("choice", "B", "B", "unreadable"),
        ("choice", "B) Paris, for it is the", "B", "right"),
        ("choice", "Perhaps option B", "B", "unreadable"),
        ("exact", "a b", "a b", "unreadable"),
        ("exact", "a b\n\nQ: ", "a b", "right"),
        ("math", "So $x^2$ and then $x", "x^2", "unreadable"),
        ("math", "So \\boxed{x^2} and", "x^2", "right"),
        ("tool-call", "I will not call", "[]", "unreadable"),
        ("tool-call", '{"name": "f", "arguments": {}} and', '{"name": "f", "arguments": {}}', "right"),
    ],
)
def test_a_completion_that_was_cut_off_has_closed_statements_only(
    name: str, text: str, gold: str, verdict: str
) -> None:
    if name == "math":
        pytest.importorskip("math_verify")
    assert make_judge(name)(text, gold, cut_off=True).verdict == verdict


def test_a_stop_string_ends_a_completion_that_was_cut_off_after_it() -> None:
    judge = StoppingJudge(make_judge("number"), ["\n\n"])
    assert judge("42\n\nMore and", "42", cut_off=True).verdict is Verdict.RIGHT
    assert judge("42", "42", cut_off=True).verdict is Verdict.UNREADABLE


@pytest.mark.parametrize(
    ("text", "finished"),
    [
        ("The final answer is 42", False),
        ("The final answer is 42.", False),  # 42.5 may be under way
        ("The final answer is 42. ", True),
        ("The final answer is 42.\n", True),
        ("The final answer is 42\n", True),
        ("The final answer is 42 apples", False),
        ("The final answer is 42 apples. ", True),
        ("The final answer is 4 2 . ", True),
        ("The final answer is $1,", False),
        ("The final answer is $1,200. T", True),
        ("The final answer is\n", False),
        ("The final answer is:\n42\n", True),
        ("The final answer is:\n$$\n", False),
        ("The final answer is \\boxed{\n42\n", False),
        ("The final answer is as follows. ", False),
        ("The answer is 42. ", False),  # may be taken back
        ("#### 42", False),
        ("#### 42\n", True),
        ("#### 2. Add them\n", False),
        ("\\boxed{42}. ", False),
        ("The answer is 42.\n\nQ", False),
        ("The answer is 42.\n\nQ:", True),
        ("The answer is 42.\n\nQuestion", False),  # "Questions like this one ..."
        ("The answer is 42.\n\nQuestion:", True),
        ("The answer is 42.</s>", True),
        ("<think>The final answer is 42. ", False),
        ("<think>a</think>The final answer is 42. ", True),
        ("42. ", False),
    ],
)
def test_finished(text: str, finished: bool) -> None:
    assert make_judge("number").finished(text) is finished


def test_options_of_reading() -> None:
    text = "The final answer is 41. Wait, that is wrong. The final answer is 42."
    assert make_judge("number")(text, "41").verdict is Verdict.RIGHT
    assert make_judge("number", final=False)(text, "42").verdict is Verdict.RIGHT
    assert not make_judge("number", final=False).finished(text + "\n")
    thought = "The final answer is 41.\nHm. </think>The final answer is 42.\n"
    assert make_judge("number", thinking=True)(thought, "42").verdict is Verdict.RIGHT
    assert not make_judge("number", thinking=True).finished(thought[:30])
    assert make_judge("number", thinking=True)("So 42", "42").verdict is Verdict.UNREADABLE


@pytest.mark.skipif("CCA_GSM8K" not in os.environ, reason="CCA_GSM8K names no file of GSM8K problems (JSON lines)")
def test_gold_solutions_are_right_against_their_own_answer_only() -> None:
    judge = make_judge("auto")
    solutions = [json.loads(line)["answer"] for line in GSM8K.read_text().splitlines()]
    answers = [solution.rpartition("####")[2].strip().replace(",", "") for solution in solutions]
    for solution, answer in zip(solutions, answers, strict=True):
        assert judge(solution, answer) == Judgement(Verdict.RIGHT, answer)
        assert judge(solution, solution).verdict is Verdict.RIGHT
        assert judge(solution.replace("#### ", "The final answer is ") + ".", answer).verdict is Verdict.RIGHT
    for index, solution in enumerate(solutions[:40]):
        for other in {answer for answer in answers if answer != answers[index]}:
            assert judge(solution, other).verdict is Verdict.WRONG


HOSTILE = [
    "The final answer is ", "final answer is\n", "answer: 1/", "####\n", "\\boxed{", "{", "}", "1,", "1.", "- ", " ",
    "\n", "1/", "\\frac{1}{", "1e", "x10^", "</think>", "<think></think>", "\nQuestion", "one and ", "A. ", "p.m. ",
    "A or ", "½", "x2,", "\\text{", "\\sqrt{", "1=", "<tool_call>", "[[1,", '{"a":', "```\n", "def f", "1. a\n", "9",
    ".234", ",23", "a=", "1 234",
]  # fmt: skip


@pytest.mark.parametrize("name", ["number", "text", "choice", "tool-call", "code"])
def test_100_kilobytes_of_anything_are_judged_at_once(name: str) -> None:
    judge = make_judge(name, allow_code=True, **({"isolation": "none"} if name == "code" else {}))
    gold = {"choice": "B", "tool-call": "[]", "code": ""}.get(name, "1")
    slowest = 0.0
    for piece in HOSTILE:
        text = ("The answer is " if name == "number" else "") + piece * (100_000 // len(piece))
        before = time.process_time()
        judge.finished(text)
        if name != "code":  # which would run it
            judge(text, gold)
        slowest = max(slowest, time.process_time() - before)
    assert slowest < 3.0  # on a busy machine; what is not bounded takes minutes


@pytest.mark.parametrize(
    ("spaced", "joined"),
    [
        ("The final answer is 4 2 .", "The final answer is 42."),
        ("1 2 + 3 0 = 4 2 .", "12 + 30 = 42."),
        ("Tom has 7 pens , Ann 1 5 .", "Tom has 7 pens, Ann 15."),
        ("( 4 2 )", "( 42)"),
        ("12 3 4", "12 34"),
        ("a 4 2x", "a 4 2x"),
        ("4  2", "4  2"),
        ("", ""),
        (" .", " ."),
        ("3 . 5", "3. 5"),
    ],
)
def test_join_digits(spaced: str, joined: str) -> None:
    assert join_digits(spaced) == joined


@given(st.lists(st.one_of(st.integers(0, 10**6).map(str), st.sampled_from(["pens", "+", "has"])), max_size=8))
def test_join_digits_undoes_a_digit_tokenizer(words: list[str]) -> None:
    alone: list[str] = []
    for word in words:  # of two numbers in a row it would make one
        if not (word.isdigit() and alone and alone[-1].isdigit()):
            alone.append(word)
    tokens = " ".join(" ".join(word) if word.isdigit() else word for word in alone)
    assert join_digits(tokens + " .") == (" ".join(alone) + "." if alone else " .")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("numbr", {}, "did you mean 'number'"),
        ("number", {"tolerence": 1}, "unknown option 'tolerence'; its options: tolerance"),
        ("number", {"tolerance": -1}, "at least 0"),
        ("number", {"tolerance": "small"}, "expected a number"),
        ("choice", {"letters": "abc"}, "expected letters"),
        ("regex", {"pattern": "("}, "expected a regular expression"),
        ("code", {}, "allow"),
        ("os:system", {}, "allow"),
        ("no_such_module:judge", {"allow_code": True}, "importable"),
        ("os:no_such_function", {"allow_code": True}, "importable"),
        ("os:path", {"allow_code": True}, "to be a function"),
        ("math", {"seconds": 0}, "above 0"),
    ],
)  # fmt: skip
def test_faulty_requests_are_refused_in_one_line(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(CcaError, match=message.replace("(", r"\(")) as refusal:
        make_judge(name, **options)  # type: ignore[arg-type]
    assert "\n" not in str(refusal.value)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.one_of(st.sampled_from([*PIECES, *HOSTILE]), st.text(max_size=8)), max_size=10).map("".join),
    st.sampled_from(["number", "text", "choice", "auto", "exact", "regex", "tool-call"]),
    st.booleans(),
)
def test_no_judge_raises_on_a_text(text: str, name: str, cut_off: bool) -> None:
    gold = {"choice": "B", "tool-call": '{"name": "f", "arguments": {"x": 1}}'}.get(name, "5")
    judge = make_judge(name)
    judge.finished(text)
    assert judge(text, gold, cut_off=cut_off).verdict in list(Verdict)
