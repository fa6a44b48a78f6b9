"""Templates: parsed, sampled, rendered; faulty and hostile ones refused in one line."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cca.errors import CcaError
from cca.problems.templates import check_file, check_template, distinct_instances, template_generator
from cca.problems.templates.template import Template, load_templates

QUESTION = """{name,Jerry} has {n,5} {fruit,pear}s and eats {frac,half} of them on {day,Monday}. How many are left?

#init:
- name = sample(names_male)
- fruit = sample(fruits)
- day = sample(weekdays)
- $n = range(3, 40)
- $frac = sample(fraction_alnum)

#conditions:
- is_int(n * frac)

#answer: n - int(n * frac)
"""
ANSWER = """{name} eats {n} * {frac} = <<{n}*{frac}={n*frac}>>{int(n*frac)} {fruit}s.
So {n} - {int(n*frac)} = <<{n}-{int(n*frac)}={n-int(n*frac)}>>{n-int(n*frac)} are left.
#### {n - int(n*frac)}"""


def template(question: str = QUESTION, answer: str = ANSWER, **extra: Any) -> Template:
    return Template.parse("pears", {"question_annotated": question, "answer_annotated": answer, **extra})


def short(
    init: str, conditions: str = "", answer: str = "x", worked: str = "#### {x}", question: str = "Q {x,1}?"
) -> Template:
    return template(f"{question}\n#init:\n{init}\n#conditions:\n{conditions}\n#answer: {answer}", worked)


def test_an_instance() -> None:
    generator, seen = np.random.default_rng(0), set()
    for _ in range(50):
        instance = template().sample(generator)
        values = instance.values
        assert set(values) == {"name", "fruit", "day", "n", "frac"}
        assert f"{values['name']} has {values['n']} {values['fruit']}s" in instance.question
        assert instance.answer == str(values["n"] - values["n"] * values["frac"].value)
        assert instance.solution.endswith(f"\n#### {instance.answer}")
        assert f"= {instance.answer} are left" in instance.solution
        assert not set("{}<>") & set(instance.question + instance.solution)
        seen.add(instance.question)
    assert len(seen) == 50


def test_the_same_seed_gives_the_same_instances() -> None:
    one, other = template(), template()
    first = [one.sample(generator) for generator in [np.random.default_rng(3)] for _ in range(5)]
    again = [other.sample(generator) for generator in [np.random.default_rng(3)] for _ in range(5)]
    assert first == again
    assert one.sample(np.random.default_rng(3)) == first[0]


def test_keys_of_ours_are_kept_and_rendered_with_the_same_values() -> None:
    planted = [{"move": "adds", "answer_annotated": "{n} + {n*frac} = {n+n*frac}\n#### {n+n*frac}", "when": "n > 0"}]
    found = template(planted=planted, id_orig=184)
    assert found.extra == {"planted": planted, "id_orig": 184}
    instance = found.sample(np.random.default_rng(1))
    wrong = found.render(found.extra["planted"][0]["answer_annotated"], instance.values)
    total = instance.values["n"] * (1 + instance.values["frac"].value)
    assert wrong.endswith(f"= {total}\n#### {total}")


@pytest.mark.parametrize(
    ("broken", "fault"),
    [
        ({"init": "x = range(3)\n- x = x + 1"}, "'x' is given values twice"),
        ({"init": "x = range(n)"}, "reads 'n', which #init does not define"),
        ({"init": "x = range(3)", "conditions": "- n > 2"}, "condition 'n > 2' reads 'n'"),
        ({"init": "x = range(3)", "answer": "xx"}, "#answer 'xx' reads 'xx'"),
        ({"init": "x = range(3)", "question": "Q {y,2}"}, "the question reads 'y'"),
        (
            {"init": "name_1 = range(3)", "answer": "1", "question": "Q", "worked": "{name1} 1"},
            "did you mean 'name_1'?",
        ),
        ({"init": "x = rnge(3)"}, "unknown function 'rnge'; did you mean 'range'?"),
        ({"init": "x = range(3"}, "cannot read 'range(3'"),
        ({"init": "x = range(3)", "worked": "{x + }"}, "cannot read 'x +'"),
        ({"init": "x = sample(names_male)", "answer": "x"}, "expected a number for #answer"),
        ({"init": "x = range(3, 9)", "answer": "x + 1"}, "but the worked solution ends with"),
        ({"init": "x = range(3, 9)", "conditions": "- x > 20"}, "no combination of x meets the conditions (x > 20)"),
        ({"init": "x = range(2, 3)", "answer": "x / 3", "worked": "#### {x/3}"}, "2/3 is not a whole or decimal"),
        ({"init": "x = range(5)", "worked": "so many"}, "the worked solution has no number"),
    ],
)
def test_faulty_templates_are_named(broken: dict[str, str], fault: str) -> None:
    with pytest.raises(CcaError) as failure:
        short(**broken).sample(np.random.default_rng(0))
    assert fault in str(failure.value)
    assert str(failure.value).startswith("template pears: ")
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize(
    "hostile",
    [
        {"init": "x = sample(().__class__.__bases__[0].__subclasses__())"},
        {"init": "x = sample([open('/etc/passwd').read()])"},
        {"init": "x = __import__('os').system('true')"},
        {"init": "import os"},
        {"init": "x = range(10 ** 12)"},
        {"init": "x = range(10 ** 15, 10 ** 18)"},
        {"init": "x = 9 ** 9 ** 9 ** 9"},
        {"init": "x = sample(list(range(10 ** 9)))"},
        {"init": "x = sample(range(10 ** 6)) * 2"},
        {"init": "x = np.arange(0, 1, 1e-9)"},
        {"init": "x = sample(['a' * 10 ** 10])"},
        {"init": "x = range(5)", "conditions": "- x.__class__ == 3"},
        {"init": "x = range(5)", "conditions": "- 2 ** (10 ** x ** 9) > 2 ** 10 ** 9"},
        {"init": "x = range(5)", "worked": "{x.__init__.__globals__}\n#### {x}"},
        {"init": "x = range(5)", "worked": "{'a' * 10 ** 9}\n#### {x}"},
        {"init": "x = range(5)", "worked": "{[" * 2000 + "}" * 2000},
        {"init": "x = range(5)", "answer": "(" * 2000 + "x" + ")" * 2000},
        {"init": "x = range(5)", "answer": "x if x" * 700},
        {"init": "a, " * 2000 + "x x = range(5)"},
        {"init": "\n".join(f"- x{i} = range(5)" for i in range(5000))},
        {"init": "x = range(5)", "question": "{" * 40_000},
        {"init": "x = [[[1] * 9999] * 9999] * 9999"},
        {"init": "x = [" + ", ".join(["[1] * 9999"] * 40) + "]"},
        {"init": "x = range(5)", "answer": "([[0] * 9999] * 9999)[0][0]"},
        {"init": "x = range(5)", "conditions": "- list(range(9999)) == x\n" * 90},
        {"init": "x = range(5)", "worked": "".join(f"{{list(range({k}, 9999))[0]}}" for k in range(999))},
        {"init": "x = range(5)", "answer": "+".join(["list(range(9999))[0]"] * 60)},
        {"init": "x = sample(list(range(9999))) + " + "+".join(["1"] * 400)},
        {"init": "x = np.random.randint(1, 10 ** 17, 10 ** 17)"},
    ],
)  # fmt: skip
def test_hostile_templates_are_refused_at_once(hostile: dict[str, str]) -> None:
    started = time.process_time()
    with pytest.raises(CcaError) as refusal:
        short(**hostile).sample(np.random.default_rng(0))
    assert time.process_time() - started < 0.9
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 400


@pytest.mark.parametrize(
    "content", [[], {}, {"question_annotated": "Q"}, {"question_annotated": 3, "answer_annotated": "x"}]
)
def test_files_of_another_shape_are_refused(content: Any) -> None:
    with pytest.raises(CcaError, match="expected"):
        Template.parse("x", content)


def test_flaws_of_some_instances_are_left_out() -> None:
    rounding = short("x = range(10, 30)", answer="int(x / 4)", worked="{x} / 4 = {int(x/4)}\n#### {int(x/4)}")
    generator = np.random.default_rng(0)
    assert {rounding.sample(generator).values["x"] % 4 for _ in range(40)} == {0}
    debts = short("x = range(3, 9)", answer="x", worked="5 - {x} = {5-x} and so on.\n#### {x}")
    assert {debts.sample(generator).values["x"] for _ in range(40)} == {3, 4, 5}


def test_flaws_of_every_instance_do_not_stop_it() -> None:
    always = short("x = range(3, 9)", worked="2 * 2 = 5\n#### {x}")
    assert always.sample(np.random.default_rng(0)).solution.startswith("2 * 2 = 5")
    assert [flaw(always.draw(np.random.default_rng(0))) for flaw in always.flaws] == [
        "", "", "a worked step is wrong: 2 * 2 = 5",
    ]  # fmt: skip


def test_a_list_nobody_knows_keeps_the_default() -> None:
    found = short(
        "x = range(3, 9)\n- thing = sample(gadgets)\n- $k = sample(odd_counts)",
        question="{thing, red lamp} {k,half} {x,1}",
    )
    assert [remark[:20] for remark in found.remarks] == ["list 'gadgets' is no", "list 'odd_counts' is"]
    instance = found.sample(np.random.default_rng(0))
    assert instance.question.startswith("Red lamp half ")
    assert instance.values["k"].value * 2 == 1


def test_the_last_of_two_lines_counts() -> None:
    found = short("x = range(3, 9)\n- x = range(20, 22)")
    assert found.remarks == ("'x' is given values twice in #init; the last line counts",)
    assert found.sample(np.random.default_rng(0)).values["x"] >= 20


def test_a_folder_of_templates(tmp_path: Path) -> None:
    for name in ("b", "inner/a", "a"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        content = {"question_annotated": QUESTION, "answer_annotated": ANSWER}
        (tmp_path / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    assert [one.name for one in load_templates(tmp_path)] == ["a", "b", "inner/a"]
    (tmp_path / "b.json").write_text('{"question_annotated": "Q", "answer_annotated": "1"}', encoding="utf-8")
    with pytest.raises(CcaError, match=r"b\.json: expected one '#answer:'"):
        load_templates(tmp_path)
    with pytest.raises(CcaError, match="got no folder"):
        load_templates(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CcaError, match=r"found no \*\.json"):
        load_templates(tmp_path / "empty")
    (tmp_path / "a.json").write_text(" " * 300_000, encoding="utf-8")
    with pytest.raises(CcaError, match="at most 200000 bytes"):
        load_templates(tmp_path)


def test_simple_templates_are_fast() -> None:
    found, generator = template(), np.random.default_rng(0)
    found.sample(generator)
    started = time.process_time()
    for _ in range(500):
        found.sample(generator)
    assert time.process_time() - started < 0.5  # measured: 0.02 s


@pytest.mark.parametrize(
    "worked",
    [" = ".join(["1"] * 4500), "(" * 9000 + "1" + ")" * 9000 + " = 1", "9**9 * " * 2500 + "1 = 2", "<<" * 9000],
    ids=["equations", "brackets", "powers", "calculators"],
)
def test_no_worked_solution_takes_long_to_judge(worked: str) -> None:
    started = time.process_time()
    assert short("x = range(5)", worked=f"{worked}\n#### {{x}}").sample(np.random.default_rng(0)).answer in "01234"
    assert time.process_time() - started < 0.9


def test_a_sound_template() -> None:
    found = check_template(short("x = range(50)"))
    assert (found.sound, found.fault, found.notes, found.distinct) == (True, "", (), 20)


def test_faults_in_a_check() -> None:
    few = check_template(short("x = range(3, 8)"))
    assert (few.sound, few.distinct) == (False, 5)
    assert few.fault == "only 5 distinct instances found, 20 asked for"
    assert check_template(short("x = range(3, 8)"), wanted=5).sound
    never = check_template(short("x = range(3, 80)", conditions="- x < 0"))
    assert never.fault == "no combination of x meets the conditions (x < 0)"
    wrong = check_template(short("x = range(3, 80)", answer="x + 1"))
    assert "but the worked solution ends with" in wrong.fault


def test_notes_of_a_check() -> None:
    found = check_template(short("x = range(3, 80)\n- k = range(2)", answer="x + k"))
    assert found.sound
    untold, sometimes = found.notes
    assert untold == "the answer depends on 'k', which the question does not tell"
    assert "left out of samples" in sometimes
    same = check_template(short("x = range(3, 80)", answer="7", worked="{x}\n#### 7"))
    assert same.notes == ("the answer is always 7",)
    unknown = check_template(short("x = range(3, 80)\n- y = range(9)\n- x2 = y", conditions="- x2 < 5"))
    assert unknown.sound


def test_a_file_that_cannot_be_read_is_a_fault(tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text("{", encoding="utf-8")
    assert check_file("bad", path).fault.startswith("expected JSON")
    path.write_text(json.dumps({"question_annotated": "Q"}), encoding="utf-8")
    assert check_file("bad", path).fault.startswith("expected 'answer_annotated'")


def test_distinct_instances_end_when_nothing_is_new() -> None:
    found = short("x = range(30)")
    assert len(list(distinct_instances(found, np.random.default_rng(0)))) == 30


def test_a_generator_belongs_to_a_template_and_a_seed() -> None:
    one, other = (Template.parse(name, {"question_annotated": QUESTION, "answer_annotated": ANSWER}) for name in "ab")
    first = [template_generator(*key).random() for key in ((one, 1), (other, 1), (one, 2), (one, 1))]
    assert first[0] == first[3]
    assert len(set(first)) == 3
