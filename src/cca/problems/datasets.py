"""Datasets: those known by name, reading rows from the hub or a local copy, and mapping rows to problems.

A local copy is one file, or a folder laid out as the dataset's repository is: ``main/test.jsonl``,
``data/train-00000-of-00001.parquet``. JSON lines, JSON, CSV and Parquet are read; Parquet and the hub need the
optional package `datasets`.

A field of a mapping is a column (``problem``; ``answer.value`` for a nested one, ``choices.0`` for an item of a list)
or a text with columns in it (``{Body} {Question}``).
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cca.errors import CcaError
from cca.files import Row, read_json, read_jsonl
from cca.problems.judges.statements import boxed
from cca.problems.judges.typography import CALCULATION

NEEDS_DATASETS = 'pip install -e ".[data]"'
LONGEST_FIELD = 1 << 30
"""Characters of a field in a CSV file."""
TARGETS = ("id", "template", "question", "prompt", "answer", "solution")
_SLOT = re.compile(r"\{([^{}]+)\}")
SUBJECTS = tuple(
    "algebra counting_and_probability geometry intermediate_algebra number_theory prealgebra precalculus".split()
)
BOXED = "Solve the problem and put the final answer in \\boxed{}.\n\nProblem: {question}\n\nSolution:"
TRAIN_AND_TEST = {"train": "train", "validation": "train", "test": "test"}
TEST_ONLY = {"train": "test", "validation": "test", "test": "test"}


@dataclass(frozen=True)
class Variant:
    """One configuration of a dataset, or several read one after another."""

    hub: str
    configs: tuple[str | None, ...]
    fields: Mapping[str, str]
    splits: Mapping[str, str]


@dataclass(frozen=True)
class NamedDataset:
    """``variants`` by name; the first is the default. ``judge`` None is the one the gold answers ask for."""

    about: str
    variants: Mapping[str, Variant] = field(default_factory=dict)
    prompt: str = "few-shot-8"
    judge: str | None = None


_INSTANCE = {"id": "{id}-{instance}", "template": "{id}", "question": "question"}
_GSM = {"question": "question", "answer": "answer", "solution": "answer"}
_SVAMP = {"id": "ID", "question": "{Body} {Question}", "answer": "Answer"}
_MATH = {"question": "problem", "answer": "solution", "solution": "solution"}
_MATH_500 = {"id": "unique_id", "question": "problem", "answer": "answer", "solution": "solution"}
_MATH_HUB = "EleutherAI/hendrycks_math"

NAMED: dict[str, NamedDataset] = {
    "gsm-symbolic": NamedDataset(
        "grade-school word problems made from templates, 50 instances each (arXiv 2410.05229)",
        {
            name: Variant("apple/GSM-Symbolic", (name,), {**_INSTANCE, **_GSM}, TEST_ONLY)
            for name in ("main", "p1", "p2")
        },
    ),
    "gsm8k": NamedDataset(
        "grade-school word problems (arXiv 2110.14168)",
        {name: Variant("openai/gsm8k", (name,), _GSM, TRAIN_AND_TEST) for name in ("main", "socratic")},
    ),
    "svamp": NamedDataset(
        "word problems varied to catch shortcuts (arXiv 2103.07191)",
        {"default": Variant("ChilleD/SVAMP", (None,), _SVAMP, TRAIN_AND_TEST)},
    ),
    "math": NamedDataset(
        "competition mathematics (arXiv 2103.03874); 500 is the test subset MATH-500",
        {
            "all": Variant(_MATH_HUB, SUBJECTS, _MATH, TRAIN_AND_TEST),
            **{subject: Variant(_MATH_HUB, (subject,), _MATH, TRAIN_AND_TEST) for subject in SUBJECTS},
            "500": Variant("HuggingFaceH4/MATH-500", (None,), _MATH_500, TEST_ONLY),
        },
        prompt=BOXED,
        judge="math",
    ),
}


def hub_rows(dataset: str, config: str | None, split: str, revision: str | None = None) -> list[Row]:
    """The rows of one split of a hub dataset. Raises CcaError when they cannot be had."""
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise CcaError(f"dataset {dataset}: the hub needs the package datasets: {NEEDS_DATASETS}") from error
    try:
        loaded = load_dataset(dataset, config, split=split, revision=revision)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise CcaError(
            f"dataset {dataset}: split {split!r} cannot be loaded ({reason}); without a network, give a local "
            "copy of its files as task.path"
        ) from error
    return [dict(row) for row in loaded]


def local_rows(path: Path, config: str | None, split: str) -> list[Row]:
    """The rows of one split of a local copy: those of a file, or of the files that ``config`` and ``split`` name."""
    path = path.expanduser()
    if not path.exists():
        raise CcaError(f"{path}: no such file or folder; task.path is a local copy of the dataset's files")
    files = [path] if path.is_file() else _files(path, config, split)
    if files[0].suffix not in READERS:
        raise CcaError(f"{path}: expected a file of {', '.join(READERS)}, got {path.suffix!r}")
    return [row for file in files for row in READERS[file.suffix](file)]


def _files(folder: Path, config: str | None, split: str) -> list[Path]:
    base = folder / config if config and (folder / config).is_dir() else folder
    by_split = [base / split, folder / split / (config or "")]  # every file of such a folder is of the split
    for place in (base, base / "data", *by_split):
        files = [file for file in sorted(place.glob("*")) if file.suffix in READERS and file.is_file()]
        # Of the split test are test.jsonl, test-00000-of-00001.parquet and gsm_test.jsonl.
        found = [file for file in files if place in by_split or split in re.split(r"[-_.]", file.name)]
        formats = {file.suffix for file in found}
        if len(formats) > 1:
            raise CcaError(f"{place}: {split!r} is there as {' and as '.join(sorted(formats))}; name the file")
        if found:
            return found
    wanted = f"{config}/{split}" if config else split
    raise CcaError(
        f"{folder}: expected files of {wanted} ({', '.join(f'*{suffix}' for suffix in READERS)}), found none"
    )


def _json_lines(file: Path) -> list[Row]:
    return [row for _, row in read_jsonl(file)]


def _json(file: Path) -> list[Row]:
    """A list of objects, an object that is one row, or lines of JSON in spite of the name."""
    text = file.read_text(encoding="utf-8-sig", errors="replace").lstrip()
    if text.startswith("{") and "\n{" in text.rstrip():
        return _json_lines(file)
    value: Any = read_json(file)
    rows = value if isinstance(value, list) else [value]
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise CcaError(f"{file}: expected a list of objects, got {type(value).__name__}")
    return rows


def _csv(file: Path) -> list[Row]:
    try:
        csv.field_size_limit(LONGEST_FIELD)
        with file.open(encoding="utf-8-sig", newline="") as handle:
            return [dict(row) for row in csv.DictReader(handle, strict=True)]
    except (csv.Error, UnicodeDecodeError) as error:
        raise CcaError(f"{file}: expected a CSV file in UTF-8, got {error}") from error


def _parquet(file: Path) -> list[Row]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise CcaError(f"{file}: Parquet files need the package datasets: {NEEDS_DATASETS}") from error
    try:
        return parquet.read_table(file).to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise CcaError(f"{file}: expected a Parquet file, got {' '.join(str(error).split())[:200]}") from error


READERS: dict[str, Callable[[Path], list[Row]]] = {
    ".jsonl": _json_lines, ".json": _json, ".csv": _csv, ".parquet": _parquet,
}  # fmt: skip


def hub_variant(hub: str, config: str | None, fields: Mapping[str, str], splits: Mapping[Any, str]) -> Variant:
    """A hub dataset by a field mapping of the user's. Raises CcaError when no problem can be made with it."""
    fields = fields or {"question": "question", "answer": "answer"}
    unknown = sorted(set(fields) - set(TARGETS))
    if unknown:
        raise CcaError(f"task.fields: unknown field {unknown[0]!r}; expected {', '.join(TARGETS)}")
    if "answer" not in fields or ("question" in fields) == ("prompt" in fields):
        raise CcaError("task.fields: expected 'answer' and either 'question' or 'prompt', got " + str(sorted(fields)))
    made = {**TRAIN_AND_TEST, **splits}
    return Variant(hub, (config,), fields, {**made, "validation": splits.get("validation", made["train"])})


def map_row(row: Row, fields: Mapping[str, str], where: str) -> Row:
    """``row`` as a problem row. Raises CcaError naming a column that is not there."""
    made = {target: _value(row, field, where) for target, field in fields.items()}
    made["answer"] = final_answer(made["answer"])
    if "solution" in made:
        made["solution"] = strip_calculator(made["solution"])
    return {target: value for target, value in made.items() if value or target in ("question", "prompt", "answer")}


def final_answer(text: str) -> str:
    """The answer at the end of a worked solution; a text without any mark of one is the answer itself."""
    if "####" in text:
        return text.rpartition("####")[2].strip()
    if "\\boxed" in text:
        return boxed(text) or text
    return text.strip()


def strip_calculator(solution: str) -> str:
    """A solution as a completion of the few-shot prompt: no calculator annotations, "The final answer is N." last."""
    solution = CALCULATION.sub("", solution)
    if "####" not in solution:
        return solution.strip()
    steps, _, answer = solution.rpartition("####")
    lines = [line.strip() for line in steps.splitlines() if line.strip()]
    sentences = [line if line.endswith((".", "!", "?", ":")) else f"{line}." for line in lines]
    return " ".join([*sentences, f"The final answer is {answer.strip()}."])


def _value(row: Row, field: str, where: str) -> str:
    slots = _SLOT.search(field)
    return _SLOT.sub(lambda slot: _column(row, slot[1], where), field) if slots else _column(row, field, where)


def _column(row: Row, column: str, where: str) -> str:
    value: Any = row
    if column in row:
        value = row[column]
    else:
        for part in column.split("."):
            if isinstance(value, Mapping) and part in value:
                value = value[part]
            elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
                value = value[int(part)]
            else:
                raise CcaError(f"{where}: no column {column!r}; its columns: {', '.join(map(str, row))}")
    if value is None or value != value:  # NaN: pandas' word for nothing
        return ""
    if isinstance(value, Mapping | list):
        raise CcaError(f"{where}: expected a text or number in column {column!r}, got {type(value).__name__}")
    if isinstance(value, float) and value.is_integer():  # SVAMP's 7.0 is 7
        return str(int(value))
    return str(value).strip()
