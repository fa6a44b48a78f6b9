"""A Problem: a prompt, its gold answer, the template it came from.

Problem files are JSONL without a header, so that anyone can write one by hand::

    {"id": "...", "template": "...", "prompt": "Q: ... A:", "answer": "33", "solution": "optional worked text"}

``question`` in place of ``prompt`` lets the task's prompt style build the prompt. ``chat`` says that the prompt came
out of a chat template, its special tokens included. ``planted`` lists solutions with a known wrong move (model
organisms only): they tell where the true pivot is.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from cca.errors import CcaError
from cca.files import Row, fingerprint, read_jsonl, write_text
from cca.problems.prompts import PLAIN, Prompts

FIELDS = ("id", "template", "prompt", "question", "answer", "solution", "planted", "chat")


@dataclass(frozen=True)
class Problem:
    id: str
    template: str
    prompt: str
    answer: str
    solution: str | None = None
    planted: tuple[str, ...] = ()
    chat: bool = False
    """The prompt holds the special tokens it needs: encoding it adds none."""


def read_problems(path: Path, prompts: Prompts = PLAIN) -> list[Problem]:
    """Read a problem file.

    ``prompts`` turns a row's ``question`` into a prompt; rows that carry a ``prompt`` keep it as it is.
    Raises CcaError naming file and line for a malformed row or a duplicate id, and for a file without problems.
    """
    numbered = ((f"{path}, line {number}", row) for number, row in read_jsonl(path, by_hand=True))
    return problems_of(numbered, str(path), prompts)


def problems_of(rows: Iterable[tuple[str, Row]], source: str, prompts: Prompts = PLAIN) -> list[Problem]:
    """The problems in (where, row) pairs; ``where`` names the row in errors, rows are those of a problem file."""
    problems: list[Problem] = []
    seen: dict[str, str] = {}
    for where, row in rows:
        problem = _problem(row, where, len(problems), prompts)
        if problem.id in seen:
            raise CcaError(
                f"{where}: problem id {problem.id!r:.80} was used before ({seen[problem.id]}); ids must differ"
            )
        seen[problem.id] = where
        problems.append(problem)
    if not problems:
        raise CcaError(f"{source}: expected at least one problem, got none")
    return problems


def write_problems(path: Path, problems: Iterable[Problem]) -> None:
    rows = ({key: value for key, value in asdict(problem).items() if value} for problem in problems)
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def problems_fingerprint(problems: Iterable[Problem]) -> str:
    return fingerprint([asdict(problem) for problem in problems])


def _problem(row: Row, where: str, index: int, prompts: Prompts) -> Problem:
    unknown = sorted(set(row) - set(FIELDS))
    if unknown:
        raise CcaError(f"{where}: unknown field {unknown[0]!r:.80}; expected {', '.join(FIELDS)}")
    row = {key: value for key, value in row.items() if value is not None}  # null is as good as absent
    identity = row.get("id", f"{index}")
    if isinstance(identity, int) and not isinstance(identity, bool):
        identity = str(identity)
    prompt, question = row.get("prompt"), row.get("question")
    if (prompt is None) == (question is None):
        raise CcaError(f"{where}: expected either 'prompt' or 'question', got {'both' if prompt else 'neither'}")
    answer = row.get("answer")
    if isinstance(answer, int | float) and not isinstance(answer, bool):
        answer = str(answer)
    template = row.get("template", "default")
    texts = {"id": identity, "template": template, "prompt": prompt or question, "answer": answer}
    for name, value in texts.items():
        if not isinstance(value, str) or not value.strip():
            raise CcaError(f"{where}: expected {name!r} to be a non-empty text, got {value!r:.80}")
    solution, planted = row.get("solution"), row.get("planted", [])
    if solution is not None and not isinstance(solution, str):
        raise CcaError(f"{where}: expected 'solution' to be a text, got {solution!r:.80}")
    if not isinstance(planted, list) or not all(isinstance(text, str) for text in planted):
        raise CcaError(f"{where}: expected 'planted' to be a list of texts, got {planted!r:.80}")
    chat = row.get("chat", False)
    if not isinstance(chat, bool) or (chat and prompt is None):
        raise CcaError(f"{where}: expected 'chat' to be true or false, and next to a 'prompt', got {chat!r:.80}")
    if prompt is None:
        prompt, chat = prompts.build(texts["prompt"]), prompts.chat
    return Problem(identity, template, prompt, answer, solution, tuple(planted), chat)  # type: ignore[arg-type]
