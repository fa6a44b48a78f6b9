"""Prompts: the text of every style, special tokens once, thoughts left open, stop strings."""

from __future__ import annotations

from datetime import date

import pytest
from chat_tokenizer import ALWAYS_THINKS, NO_SYSTEM, TEMPLATE, chat_tokenizer
from hypothesis import example, given
from hypothesis import strategies as st

from cca.errors import CcaError
from cca.models.loading import Codec
from cca.pivots.traces import Grader
from cca.problems.judges import make_judge
from cca.problems.judges.judge import StoppingJudge, Verdict
from cca.problems.judges.reading import open_thought
from cca.problems.problem import EXEMPLARS, make_prompts, problems_of


def test_the_few_shot_prompt_is_the_papers() -> None:
    text = make_prompts("few-shot-8").build("How many?")
    assert text.startswith(
        "As an expert problem solver, solve step by step the following mathematical questions.\n\nQ: There are 15 trees"
    )
    assert text.count("\n\nQ: ") == 9
    assert text.count("A: Let's think step by step.") == 9
    assert text.endswith("23 - 15 is 8. The final answer is 8.\n\nQ: How many?\nA: Let's think step by step.")


def test_the_judge_reads_every_exemplar_as_it_is_written() -> None:
    for _, solution, answer in EXEMPLARS:
        assert make_judge("number")(f"{solution} The final answer is {answer}.", answer).verdict is Verdict.RIGHT


@pytest.mark.parametrize(
    ("style", "text", "stop"),
    [
        ("zero-shot", "Q: Why?\nA:", ("\nQ:",)),
        ("plain", "Why?", ()),
        ("Question: {question}\nAnswer:", "Question: Why?\nAnswer:", ()),
    ],
)
def test_styles_without_a_tokenizer(style: str, text: str, stop: tuple[str, ...]) -> None:
    prompts = make_prompts(style)
    assert (prompts.build("Why?"), prompts.stop, prompts.chat) == (text, stop, False)
    assert make_prompts(style, stop=["\n"]).stop == ("\n",)


def test_a_question_with_braces_is_left_alone() -> None:
    assert make_prompts("Q: {question} {x}").build("{question} {0}") == "Q: {question} {0} {x}"


def test_chat_prompts_have_their_special_tokens_once() -> None:
    tokenizer = chat_tokenizer()
    prompts = make_prompts("chat", tokenizer, system="Be brief")
    (chat,) = problems_of([("row", {"question": "What is 1 + 1 ?", "answer": "2"})], "rows", prompts)
    (plain,) = problems_of([("row", {"prompt": "What is 1 + 1 ?", "answer": "2"})], "rows", prompts)
    grader = Grader(Codec(tokenizer), make_judge("number"))
    messages = [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "What is 1 + 1 ?"}]
    theirs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert list(grader.prompt_ids(chat)) == theirs
    assert grader.prompt_ids(chat).count(tokenizer.bos_token_id) == 1
    assert grader.prompt_ids(plain) == tuple(tokenizer.encode("What is 1 + 1 ?"))
    assert grader.prompt_ids(plain).count(tokenizer.bos_token_id) == 1


@pytest.mark.parametrize(
    ("template", "thinking", "inside"),
    [(TEMPLATE, None, False), (TEMPLATE, True, True), (TEMPLATE, False, False), (ALWAYS_THINKS, None, True)],
)
def test_thoughts_that_the_template_leaves_open(template: str, thinking: bool | None, inside: bool) -> None:
    prompts = make_prompts("chat", chat_tokenizer(template), system="Think in <think> tags", thinking=thinking)
    assert prompts.thinking is inside
    assert prompts.build("What").endswith("<think>") is (inside and template is TEMPLATE)


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ("", False),
        ("<think>\n", True),
        ("<think>\n\n</think>\n\n", False),
        ("<think>a</think><think>", True),
        ("[THINK]", True),
    ],
)
def test_open_thoughts(text: str, inside: bool) -> None:
    assert open_thought(text) is inside


@pytest.mark.parametrize(
    ("style", "template", "options", "message"),
    [
        ("few-shot", TEMPLATE, {}, "did you mean 'few-shot-8'"),
        ("chat", None, {}, "has none"),
        ("chat", NO_SYSTEM, {"system": "Be brief"}, "with a system message: no system role"),
        ("chat", ALWAYS_THINKS, {"thinking": False}, "no switch for thinking"),
        ("chat", "{{ nothing() }}", {}, "fails"),
        ("chat", "Hello", {}, "leaves the question out"),
        ("zero-shot", TEMPLATE, {"system": "Be brief"}, "'system' is an option of 'chat'"),
        ("zero-shot", TEMPLATE, {"stop": [""]}, "stop: expected"),
    ],
)
def test_what_cannot_be_a_prompt(style: str, template: str | None, options: dict, message: str) -> None:
    with pytest.raises(CcaError, match=message):
        make_prompts(style, chat_tokenizer(template), **options)


def test_chat_without_a_tokenizer_asks_for_the_model() -> None:
    with pytest.raises(CcaError, match="name the model"):
        make_prompts("chat")


PIECES = st.lists(st.sampled_from(["#### ", "5", "\n", "x", "Q", ". "]), max_size=7).map("".join)


@given(PIECES, PIECES)
@example("#### 55\n", "x")  # "5\nx" is a stop: what is left of the answer is 5
def test_a_stopped_judge_is_finished_only_when_nothing_can_change_its_verdict(text: str, more: str) -> None:
    judge = StoppingJudge(make_judge("number"), ("5\nx", "xQ"))
    if judge.finished(text):
        assert judge(text, "5") == judge(text + more, "5")


def test_a_completion_ends_at_its_first_stop() -> None:
    judge = StoppingJudge(make_judge("number"), ("END", "STOP"))
    assert judge("It is 5. STOP 6 END 7", "5").verdict is Verdict.RIGHT
    assert judge.finished("It is 5. STOP")
    assert not judge.finished("It is 5. STO")


def test_the_day_in_a_chat_template_is_given_not_read_from_the_clock() -> None:
    tokenizer = chat_tokenizer("{{ strftime_now('%d %b %Y') }} {{ messages[0]['content'] }}")
    prompts = make_prompts("chat", tokenizer, today=date(2024, 3, 5))
    assert prompts.build("q") == "05 Mar 2024 q"
    assert prompts.date == prompts.described()["date"] == "2024-03-05"
    assert make_prompts("chat", tokenizer).date == date.today().isoformat()
    assert make_prompts("chat", chat_tokenizer()).date is None
