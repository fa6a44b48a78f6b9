"""Field mappings: a dataset's rows as problem rows.

A field is a column (``problem``; ``answer.value`` goes into a nested one, ``choices.0`` into a list) or a text with
columns in it (``{Body} {Question}``). The final answer is taken out of a worked one: what follows "####", or the last
``\\boxed{...}``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from cca.errors import CcaError
from cca.files import Row
from cca.problems.judges.statements import boxed

TARGETS = ("id", "template", "question", "prompt", "answer", "solution")
_SLOT = re.compile(r"\{([^{}]+)\}")
_CALCULATION = re.compile(r"<<[^<>]*>>")


def check_fields(fields: Mapping[str, str]) -> None:
    """Raise CcaError for a mapping that no problem can be made with."""
    unknown = sorted(set(fields) - set(TARGETS))
    if unknown:
        raise CcaError(f"task.fields: unknown field {unknown[0]!r}; expected {', '.join(TARGETS)}")
    if "answer" not in fields or ("question" in fields) == ("prompt" in fields):
        raise CcaError(
            "task.fields: expected 'answer' and either 'question' or 'prompt', got " + str(sorted(fields))
        )


def mapped(row: Row, fields: Mapping[str, str], where: str) -> Row:
    """``row`` as a problem row. Raises CcaError naming a column that is not there."""
    made = {target: _value(row, field, where) for target, field in fields.items()}
    made["answer"] = final_answer(made["answer"])
    if "solution" in made:
        made["solution"] = worked(made["solution"])
    return {
        target: value for target, value in made.items() if value or target in ("question", "prompt", "answer")
    }


def final_answer(text: str) -> str:
    """The answer at the end of a worked solution; a text without any mark of one is the answer itself."""
    if "####" in text:
        return text.rpartition("####")[2].strip()
    if "\\boxed" in text:
        return boxed(text) or text
    return text.strip()


def worked(solution: str) -> str:
    """A solution as a completion of the few-shot prompt: no calculator annotations, "The final answer is N." last."""
    solution = _CALCULATION.sub("", solution)
    if "####" not in solution:
        return solution.strip()
    steps, _, answer = solution.rpartition("####")
    lines = [line.strip() for line in steps.splitlines() if line.strip()]
    sentences = [line if line.endswith((".", "!", "?", ":")) else f"{line}." for line in lines]
    return " ".join([*sentences, f"The final answer is {answer.strip()}."])


def _value(row: Row, field: str, where: str) -> str:
    if _SLOT.search(field):
        return _SLOT.sub(lambda slot: _column(row, slot[1], where), field)
    return _column(row, field, where)


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
    if value is None:
        return ""
    if isinstance(value, Mapping | list):
        raise CcaError(f"{where}: expected a text or number in column {column!r}, got {type(value).__name__}")
    return _written(value)


def _written(value: Any) -> str:
    """Whole numbers without a fraction: SVAMP's 7.0 is 7."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()
