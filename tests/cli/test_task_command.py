"""``cca task check`` and ``cca task sample`` on a small folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cca.cli.task import app
from cca.errors import CcaError

GOOD = """{name,Jo} has {x,4} and {k,2}.
#init:
- name = sample(names)
- x = range(3, 90)
- k = range(9)
#answer: x + k"""
WORKED = "{x} + {k} = <<{x}+{k}={x+k}>>{x+k}\n#### {x+k}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    def write(name: str, question: str, answer: str) -> None:
        path = tmp_path / "templates" / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"question_annotated": question, "answer_annotated": answer}), encoding="utf-8")

    write("good", GOOD, WORKED)
    write("fine", GOOD.replace("has", "holds"), WORKED)
    write("hostile", GOOD.replace("range(9)", "range(10 ** 12)"), WORKED)
    return tmp_path / "templates"


def rows(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_check_names_the_faulty_one_and_fails(folder: Path) -> None:
    result = CliRunner().invoke(app, ["check", str(folder)])
    assert result.exit_code == 1
    lines = result.output.splitlines()
    assert lines[0] == "fine: sound, 20 distinct instances"
    assert lines[2].startswith("hostile: FAULTY: expected a range of at most 1000000 numbers")
    assert lines[-1] == "2 of 3 templates are sound, 1 faulty"
    (folder / "hostile.json").unlink()
    assert CliRunner().invoke(app, ["check", str(folder)]).exit_code == 0


def test_sample_writes_distinct_instances_and_warns(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    result = CliRunner().invoke(app, ["sample", str(folder), "--instances", "7", "--seed", "3", "--out", str(out)])
    assert result.exit_code == 0
    assert "warning" in result.stderr
    assert "hostile" in result.stderr
    assert f"wrote 14 instances of 2 of 3 templates to {out}" in result.stdout
    found = rows(out)
    assert [row["id"] for row in found[:2]] == ["fine-0000", "fine-0001"]
    assert len({row["question"] for row in found}) == 14
    for row in found:
        assert set(row) == {"id", "template", "question", "solution", "answer"}
        assert row["solution"].endswith(f"#### {row['answer']}")


def test_the_instances_of_a_template_do_not_depend_on_its_neighbours(folder: Path, tmp_path: Path) -> None:
    first, second, third = (tmp_path / f"{name}.jsonl" for name in ("first", "second", "third"))
    arguments = ["sample", str(folder), "--instances", "4", "--seed", "1", "--out"]
    CliRunner().invoke(app, [*arguments, str(first)])
    (folder / "fine.json").unlink()
    CliRunner().invoke(app, [*arguments, str(second)])
    assert rows(first)[4:] == rows(second)
    CliRunner().invoke(app, ["sample", str(folder), "--instances", "4", "--seed", "2", "--out", str(third)])
    assert rows(third) != rows(second)


def test_a_folder_without_a_usable_template_is_an_error(folder: Path, tmp_path: Path) -> None:
    for name in ("good", "fine"):
        (folder / f"{name}.json").unlink()
    result = CliRunner().invoke(app, ["sample", str(folder), "--out", str(tmp_path / "out.jsonl")])
    assert isinstance(result.exception, CcaError)
    assert "none of 1 templates gives an instance" in str(result.exception)
    assert not (tmp_path / "out.jsonl").exists()
