"""A task of the user's own: a function that gives problems and, if it likes, their judge.

::

    # my_task.py, beside run.yaml; task: {source: "my_task:load"}, allow_code: true
    def load(seed):
        rows = [{"id": "1", "template": "sums", "question": "What is 1 + 1?", "answer": "2"}, ...]
        return {"problems": rows, "judge": lambda text, gold: gold in text}

The mapping has ``problems`` (divided as the configuration says) or ``train``, ``validation`` and ``test``; optionally
``judge`` (a judge's name, a function of (completion, gold answer), or a `Judge`) and ``retention`` (name -> rows).
Rows are those of a problem file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cca.errors import CcaError
from cca.problems.judges.judge import Judge
from cca.problems.judges.user import FunctionJudge, imported
from cca.problems.problem import Problem, problems_of
from cca.problems.prompts import Prompts
from cca.problems.task_config import SPLITS

KEYS = ("problems", *SPLITS, "judge", "retention")


def made_by(name: str, allow_code: bool, seed: int, prompts: Prompts) -> dict[str, Any]:
    """What the function gave: problems by key, ``judge`` and ``retention``, checked.

    Raises CcaError when code was not allowed, there is no such function, or it gave something else.
    """
    if not allow_code:
        raise CcaError(
            f"task {name!r} is code of yours: allow it explicitly (allow_code) to import and run it"
        )
    given = imported("task", name)(seed)
    if not isinstance(given, Mapping):
        given = {"problems": given}
    unknown = sorted(set(given) - set(KEYS))
    if unknown:
        raise CcaError(
            f"task {name!r}: unknown key {unknown[0]!r} in what it gave; expected {', '.join(KEYS)}"
        )
    if ("problems" in given) == any(split in given for split in SPLITS):
        raise CcaError(
            f"task {name!r}: expected 'problems' or {', '.join(SPLITS)} in what it gave, got {sorted(given)}"
        )
    missing = [split for split in SPLITS if "problems" not in given and split not in given]
    if missing:
        raise CcaError(f"task {name!r}: {missing[0]!r} is missing in what it gave")
    made: dict[str, Any] = {
        key: _problems(f"task {name!r}, {key}", given[key], prompts)
        for key in ("problems", *SPLITS)
        if key in given
    }
    made["judge"] = _judge(name, given.get("judge"))
    made["retention"] = {
        str(key): tuple(_problems(f"task {name!r}, retention {key}", rows, prompts))
        for key, rows in dict(given.get("retention") or {}).items()
    }
    return made


def _problems(where: str, rows: Any, prompts: Prompts) -> list[Problem]:
    if not isinstance(rows, list | tuple) or not all(isinstance(row, Mapping | Problem) for row in rows):
        raise CcaError(f"{where}: expected a list of rows (mappings), got {type(rows).__name__}")
    if all(isinstance(row, Problem) for row in rows) and rows:
        return list(rows)
    return problems_of(((f"{where}, row {n}", dict(row)) for n, row in enumerate(rows)), where, prompts)


def _judge(name: str, judge: Any) -> Judge | str | None:
    if judge is None or isinstance(judge, str):
        return judge
    if all(hasattr(judge, method) for method in ("finished", "check_gold", "name")):
        return judge
    if callable(judge):
        return FunctionJudge(f"{name} (judge)", judge)
    raise CcaError(
        f"task {name!r}: expected a judge's name or a function as 'judge', got {type(judge).__name__}"
    )
