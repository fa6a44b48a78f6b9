"""The report on a template tells faults from notes and counts what it can give."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from cca.problems.templates import check_file, check_template, distinct_instances, template_generator
from cca.problems.templates.template import Template


def template(init: str, answer: str = "x", worked: str = "#### {x}", conditions: str = "", name: str = "t") -> Template:
    question = f"Q {{x,1}}?\n#init:\n{init}\n#conditions:\n{conditions}\n#answer: {answer}"
    return Template.parse(name, {"question_annotated": question, "answer_annotated": worked})


def test_a_sound_template() -> None:
    found = check_template(template("- x = range(50)"))
    assert (found.sound, found.fault, found.notes, found.distinct) == (True, "", (), 20)


def test_faults() -> None:
    few = check_template(template("- x = range(3, 8)"))
    assert (few.sound, few.distinct) == (False, 5)
    assert few.fault == "only 5 distinct instances found, 20 asked for"
    assert check_template(template("- x = range(3, 8)"), wanted=5).sound
    never = check_template(template("- x = range(3, 80)", conditions="- x < 0"))
    assert never.fault == "no combination of x meets the conditions (x < 0)"
    wrong = check_template(template("- x = range(3, 80)", answer="x + 1"))
    assert "but the worked solution ends with" in wrong.fault


def test_notes() -> None:
    found = check_template(template("- x = range(3, 80)\n- k = range(2)", answer="x + k"))
    assert found.sound
    untold, sometimes = found.notes
    assert untold == "the answer depends on 'k', which the question does not tell"
    assert "left out of samples" in sometimes
    same = check_template(template("- x = range(3, 80)", answer="7", worked="{x}\n#### 7"))
    assert same.notes == ("the answer is always 7",)
    unknown = check_template(template("- x = range(3, 80)\n- y = range(9)\n- x2 = y", conditions="- x2 < 5"))
    assert unknown.sound


def test_a_file_that_cannot_be_read_is_a_fault(tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text("{", encoding="utf-8")
    assert check_file("bad", path).fault.startswith("expected JSON")
    path.write_text(json.dumps({"question_annotated": "Q"}), encoding="utf-8")
    assert check_file("bad", path).fault.startswith("expected 'answer_annotated'")


def test_distinct_instances_end_when_nothing_is_new() -> None:
    found = template("- x = range(30)")
    assert len(list(distinct_instances(found, np.random.default_rng(0)))) == 30


def test_a_generator_belongs_to_a_template_and_a_seed() -> None:
    one, other = template("- x = range(9)", name="one"), template("- x = range(9)", name="other")
    first = [template_generator(*key).random() for key in ((one, 1), (other, 1), (one, 2), (one, 1))]
    assert first[0] == first[3]
    assert len(set(first)) == 3
