"""Sources: every kind of task, from small local files laid out as the published datasets are."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from cca.errors import CcaError
from cca.files import read_yaml
from cca.problems.datasets import NAMED
from cca.problems.judges.judge import Verdict
from cca.problems.problem import Problem, read_problems
from cca.problems.sources import open_task
from cca.problems.task import Task, check_answers, check_prompts, lm_eval_tasks, overlaps, task_judge, with_retention
from cca.problems.task_config import TaskFiles, TaskSource

GSM = {"question": "Ann has 2 pens and buys 3. How many?", "answer": "She has 2+3=<<2+3=5>>5 pens.\nSo 5.\n#### 5"}
SVAMP = {"ID": "chal-1", "Body": "Tim has 8 jars.", "Question": "How many jars?", "Answer": 8.0, "Type": "Addition"}
MATH = {"problem": "What is $x$?", "solution": "As $2x = \\frac12$, $x=\\boxed{\\frac{1}{4}}$.", "type": "Algebra"}


def write_jsonl(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def numbered(row: Mapping[str, Any], count: int, key: str, **more: Any) -> list[dict[str, Any]]:
    return [{**row, key: f"{row[key]} ({n})", **{k: v(n) for k, v in more.items()}} for n in range(count)]


@pytest.fixture
def copies(tmp_path: Path) -> Path:
    """Local copies of the four datasets, with the file names that their repositories have."""
    instances = numbered(GSM, 100, "question", id=lambda n: n // 50, instance=lambda n: n % 50)
    for variant in ("main", "p1", "p2"):
        write_jsonl(tmp_path / "gsm-symbolic" / variant / "test.jsonl", instances)
    for split in ("train", "test"):
        write_jsonl(tmp_path / "gsm8k" / "main" / f"{split}-00000-of-00001.jsonl", numbered(GSM, 20, "question"))
        rows = numbered(SVAMP, 20, "Body", ID=lambda n, split=split: f"{split}-{n}")
        (tmp_path / "svamp").mkdir(exist_ok=True)
        (tmp_path / "svamp" / f"{split}.json").write_text(json.dumps(rows))
        for subject in ("algebra", "geometry"):
            rows = numbered(MATH, 20, "problem")
            write_jsonl(tmp_path / "math" / subject / f"{split}-00000-of-00001.jsonl", rows)
    return tmp_path


def test_gsm_symbolic_is_split_inside_templates_and_asked_in_the_papers_words(copies: Path) -> None:
    task = open_task(TaskSource(source="gsm-symbolic", variant="p1", path=copies / "gsm-symbolic"))
    assert (len(task.train), len(task.validation), len(task.test)) == (52, 8, 40)
    assert task.seen_templates == {"0", "1"}
    problem = task.train[0]
    assert problem.prompt.startswith("As an expert problem solver")
    assert problem.solution == "She has 2+3=5 pens. So 5. The final answer is 5."
    assert problem.answer == "5"
    assert task.origin["split"] == {"rule": "within-templates", "shares": [0.52, 0.08, 0.4], "unseen": 0.0, "seed": 0}
    assert task.origin["hub"] == "apple/GSM-Symbolic"
    assert task.origin["problems"] == {"train": 52, "validation": 8, "test": 40}


@pytest.mark.parametrize(
    ("spec", "sizes", "prompt", "answer", "judge"),
    [
        ({"source": "gsm8k"}, (17, 3, 20), "Q: Ann has 2 pens and buys 3. How many? (", "5", "auto"),
        ({"source": "svamp"}, (17, 3, 20), "Q: Tim has 8 jars. (", "8", "auto"),
        ({"source": "math", "variant": "algebra"}, (17, 3, 20), "Problem: What is $x$? (", "\\frac{1}{4}", "math"),
    ],
)
def test_named_datasets(
    copies: Path, spec: dict[str, Any], sizes: tuple[int, ...], prompt: str, answer: str, judge: str
) -> None:
    task = open_task(TaskSource(**spec, path=copies / spec["source"]))
    assert (len(task.train), len(task.validation), len(task.test)) == sizes
    assert task.test[0].prompt.rpartition("\n\n")[0 if judge == "math" else 2].rpartition("\n\n")[2].startswith(prompt)
    assert task.test[0].answer == answer
    assert task_judge(task).name == judge
    assert {problem.id for problem in task.train}.isdisjoint(problem.id for problem in task.test)


def test_the_judge_of_each_dataset_marks_its_own_answer_right(copies: Path) -> None:
    for source, variant, text in (
        ("svamp", None, "The final answer is 8."),
        ("math", "geometry", "So $\\boxed{0.25}$."),
    ):
        task = open_task(TaskSource(source=source, variant=variant, path=copies / source))
        judge = task_judge(task)
        check_answers(task, judge)
        assert judge(text, task.test[0].answer).verdict is Verdict.RIGHT


def test_every_named_dataset_has_fields_for_question_and_answer() -> None:
    for dataset in NAMED.values():
        for variant in dataset.variants.values():
            assert {"question", "answer"} <= set(variant.fields)
            assert set(variant.splits) == {"train", "validation", "test"}
            assert variant.hub.count("/") == 1


def test_any_dataset_by_a_field_mapping(tmp_path: Path) -> None:
    rows = [
        {"q": {"text": f"Question {n}?"}, "options": ["yes", "no"], "gold": "no", "kind": f"kind {n % 4}"}
        for n in range(40)
    ]
    for split in ("dev", "test"):
        write_jsonl(tmp_path / "data" / f"{split}.jsonl", rows)
    fields = {"question": "{q.text} {options.0} or {options.1}?", "answer": "gold", "template": "kind"}
    task = open_task(
        TaskSource(
            source="hf:someone/things", path=tmp_path, fields=fields, splits={"train": "dev", "test": "test"}, limit=9
        )
    )
    assert task.test[0].prompt.endswith("? yes or no?\nA:")
    assert task.test[0].answer == "no"
    assert task.seen_templates == {"kind 0", "kind 1", "kind 2", "kind 3"}
    assert (len(task.train), len(task.validation), len(task.test)) == (9, 4, 9)


def test_parquet_and_csv_copies(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = pyarrow.Table.from_pylist(numbered(GSM, 10, "question"))
    (tmp_path / "main").mkdir()
    parquet.write_table(table, tmp_path / "main" / "train-00000-of-00001.parquet")
    parquet.write_table(table, tmp_path / "main" / "test-00000-of-00001.parquet")
    task = open_task(TaskSource(source="gsm8k", path=tmp_path))
    assert len(task.test) == 10
    lines = ["question,answer", *(f'"How many, {n}?",{n}' for n in range(10))]
    for split in ("train", "test"):
        (tmp_path / f"{split}.csv").write_text("\n".join(lines))
    found = open_task(TaskSource(source="hf:a/b", path=tmp_path))
    assert [problem.answer for problem in found.test] == [str(n) for n in range(10)]


@pytest.mark.parametrize("source", ["gsm8k", "hf:a/b"])
def test_a_copy_of_one_file_is_divided_and_not_read_for_every_split(tmp_path: Path, source: str) -> None:
    path = write_jsonl(tmp_path / "test_first.jsonl", numbered(GSM, 50, "question"))
    task = open_task(TaskSource(source=source, path=path))
    ids = [problem.id for split in (task.train, task.validation, task.test) for problem in split]
    prompts = {problem.prompt for split in (task.train, task.validation, task.test) for problem in split}
    assert len(ids) == len(set(ids)) == len(prompts) == 50


def test_a_problem_file_alone_is_split(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "mine.jsonl", [{"question": f"{n}?", "answer": n} for n in range(50)])
    task = open_task(str(path))
    assert (task.name, len(task.train), len(task.validation), len(task.test)) == ("mine", 26, 4, 20)
    assert task.train[0].prompt.endswith("?\nA:")


def test_three_files_and_retention_share_the_prompt_style(tmp_path: Path) -> None:
    paths = {
        split: write_jsonl(tmp_path / f"{split}.jsonl", [{"question": "1?", "answer": "1"}])
        for split in ("train", "validation", "test", "other")
    }
    other = paths.pop("other")
    task = open_task(TaskFiles.model_validate({**paths, "prompt": "Say {question}", "stop": ["\n"]}))
    task = with_retention(task, [str(other), "lm_eval:mmlu"])
    assert task.test[0].prompt == task.retention["other"][0].prompt == "Say 1?"
    assert task_judge(task).finished("It is 1\n")
    assert lm_eval_tasks(["a.jsonl", "lm_eval:mmlu"]) == ["mmlu"]


def test_template_folders_are_sampled_with_the_seed(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        content = {
            "question_annotated": "{x,1} and {y,2}?\n\n#init:\n- $x, $y = range(1, 30), range(1, 30)\n\n#answer: x + y",
            "answer_annotated": "{x} + {y} = <<{x}+{y}={x+y}>>{x+y}\n#### {x+y}",
        }
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    spec = TaskSource(source=str(tmp_path), instances=20, split="by-template", shares=(0.34, 0.33, 0.33))
    task = open_task(spec, 1)
    assert (len(task.train), len(task.validation), len(task.test)) == (20, 20, 20)
    assert not task.seen_templates & {problem.template for problem in task.test}
    assert str(task.test[0].solution).endswith(f"The final answer is {task.test[0].answer}.")
    assert open_task(spec, 1).fingerprint == task.fingerprint != open_task(spec, 2).fingerprint


MY_TASK = """
def load(seed):
    rows = [{"question": f"{n}?", "answer": f"{n + seed}"} for n in range(50)]
    return {"problems": rows, "judge": lambda text, gold: gold in text, "retention": {"other": rows[:2]}}

def parts(seed):
    return {"train": [{"prompt": "1", "answer": "1"}], "validation": [{"prompt": "2", "answer": "2"}]}

def wrong(seed):
    return {"problems": [1]}
"""


@pytest.fixture
def my_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "a_task_of_mine.py").write_text(MY_TASK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "a_task_of_mine", raising=False)
    return "a_task_of_mine"


def test_a_function_gives_problems_and_their_judge(my_task: str) -> None:
    task = open_task(f"{my_task}:load", 3, allow_code=True)
    judge = task_judge(task)
    assert len(task.train) == 26
    assert judge("perhaps 7", "7").verdict is Verdict.RIGHT
    assert judge("perhaps 8", "7").verdict is Verdict.WRONG
    assert len(task.retention["other"]) == 2
    with pytest.raises(CcaError, match="has no options"):
        task_judge(task, {"name": "auto", "tolerance": 1})


@pytest.mark.parametrize(
    ("function", "allowed", "message"),
    [
        ("load", False, "allow it explicitly"),
        ("nothing", True, "expected an importable function"),
        ("parts", True, "'test' is missing"),
        ("wrong", True, "expected a list of rows"),
    ],
)
def test_functions_that_are_refused(my_task: str, function: str, allowed: bool, message: str) -> None:
    with pytest.raises(CcaError, match=message):
        open_task(f"{my_task}:{function}", allow_code=allowed)


def test_code_that_was_not_allowed_is_not_even_imported(my_task: str) -> None:
    with pytest.raises(CcaError):
        open_task(f"{my_task}:load")
    assert my_task not in sys.modules


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"source": "gsm-symbollic"}, "did you mean 'gsm-symbolic'"),
        ({"source": "gsm-symbolic", "variant": "p3"}, "has main, p1, p2, got 'p3'"),
        ({"source": "gsm-symbolic", "fields": {"answer": "a"}}, "task.fields: not a key of the source"),
        ({"source": "tinymath", "prompt": "chat"}, "task.prompt: not a key of the source"),
        ({"source": "gsm8k", "path": "COPIES/gsm8k", "unseen": 0.5}, "task.unseen"),
        ({"source": "gsm8k", "path": "COPIES/none"}, "no such file or folder"),
        ({"source": "gsm8k", "path": "COPIES/svamp"}, "no column 'question'; its columns: ID, Body"),
        ({"source": "gsm8k", "path": "COPIES"}, "expected files of main/train"),
        ({"source": "hf:a/b", "path": "COPIES/gsm8k", "fields": {"ask": "q"}}, "unknown field 'ask'"),
        ({"source": "hf:a/b", "path": "COPIES/gsm8k", "fields": {"answer": "q"}}, "either 'question' or 'prompt'"),
        ({"source": "gsm8k", "path": "COPIES/gsm8k", "prompt": "chat"}, "expected the model's tokenizer"),
    ],
)
def test_sources_that_are_refused(copies: Path, spec: dict[str, Any], message: str) -> None:
    if "path" in spec:
        spec = {**spec, "path": Path(spec["path"].replace("COPIES", str(copies)))}
    with pytest.raises(CcaError, match=message):
        open_task(TaskSource(**spec))


ROWS = [{"question": f"What is {n} + 1?", "answer": f"{n + 1}"} for n in range(30)]


def test_files_as_people_have_them(tmp_path: Path) -> None:
    """With a byte-order mark (Notepad, Excel), null for what is absent (pandas), and long fields."""
    lines = "".join(json.dumps({**row, "template": None, "id": None}) + "\n" for row in ROWS)
    lines += json.dumps({**ROWS[0], "template": 7, "id": 300}) + "\n"
    (tmp_path / "bom.jsonl").write_text(lines, encoding="utf-8-sig")
    problems = read_problems(tmp_path / "bom.jsonl")
    assert [problem.id for problem in problems][:2] == ["0", "1"]
    assert (problems[-1].id, problems[-1].template) == ("300", "7")
    table = "question,answer\r\n" + "".join(f"q{n},{n}\r\n" for n in range(20)) + "x" * 140_000 + ",1\r\n"
    (tmp_path / "bom.csv").write_text(table, encoding="utf-8-sig")
    task = open_task(TaskSource(source="hf:a/b", path=tmp_path / "bom.csv"))
    assert sum(map(len, (task.train, task.validation, task.test))) == 21


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"question": "1?", "answer": NaN}', "line 2: expected a JSON object, got NaN"),
        ('{"question": "1?", "answer": "2", "answer": "3"}', "line 2: .* the key 'answer' twice"),
    ],
)
def test_what_json_leaves_open_is_refused_with_its_line(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "odd.jsonl").write_text('{"question": "0?", "answer": "1"}\n' + line + "\n")
    with pytest.raises(CcaError, match=message):
        read_problems(tmp_path / "odd.jsonl")


def test_a_key_given_twice_in_yaml_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("model: x\nseed: 1\nseed: 2\n")
    with pytest.raises(CcaError, match="the key 'seed' twice"):
        read_yaml(tmp_path / "run.yaml")


def small_task(**sets: list[str]) -> Task:
    made = {
        name: tuple(Problem(f"{name}-{n}", "t", text, "1") for n, text in enumerate(texts))
        for name, texts in sets.items()
    }
    retention = {"other": made.pop("other")} if "other" in made else {}
    return Task("t", made["train"], made["validation"], made["test"], retention)


def test_prompts_in_two_splits_are_noted() -> None:
    task = small_task(train=["a", "b"], validation=["c"], test=["d", "b", "a"], other=["e", "a"])
    assert overlaps(task) == [
        "2 of 3 test prompts are in train too (the first: 'test-1')",
        "1 of 2 other prompts are in train too (the first: 'other-1')",
    ]
    assert overlaps(small_task(train=["a"], validation=["b"], test=["c"])) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("w " * 128, "other, problem 'other-1': its prompt has 128 tokens, the model takes 128"),
        ("", "other, problem 'other-1': its prompt has 0 tokens"),
        ("w 99", "other, problem 'other-1': its prompt has the token id 99, the model's embedding has 50"),
    ],
)
def test_prompts_that_the_model_cannot_take_are_named(text: str, message: str) -> None:
    def encode(problem: Problem) -> list[int]:
        return [int(word) if word.isdigit() else 1 for word in problem.prompt.split()]

    sets = {"train": ["w"], "validation": ["w 2"], "test": ["w 3"], "other": ["w " * 127]}
    check_prompts(small_task(**sets), encode, 128, 50)
    with pytest.raises(CcaError, match=message):
        check_prompts(small_task(**{**sets, "other": ["w", text]}), encode, 128, 50)
