"""A Problem (a prompt, its gold answer, the template it came from), and the prompt that a question becomes.

Problem files are JSONL without a header, so that anyone can write one by hand::

    {"id": "...", "template": "...", "prompt": "Q: ... A:", "answer": "33", "solution": "optional worked text"}

``question`` in place of ``prompt`` lets the task's prompt style build the prompt. ``chat`` says that the prompt came
out of a chat template, its special tokens included. ``planted`` lists solutions with a known wrong move (model
organisms only): they tell where the true pivot is. The styles:

* ``few-shot-8``: the prompt of GSM-Symbolic (arXiv 2410.05229, appendix) that the paper uses: a preamble, eight worked
  examples that end with "The final answer is N.", the question, "A: Let's think step by step."
* ``zero-shot``: the question between "Q:" and "A:".
* ``chat``: the tokenizer's own chat template with its generation prompt. It writes the special tokens itself, so
  problems made by it are encoded without more of them.
* ``plain``: the question as it is.
* any text with ``{question}`` in it: that text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from cca.errors import CcaError, suggestion
from cca.files import Row, fingerprint, read_jsonl, write_text
from cca.problems.judges.reading import open_thought

STYLES = ("few-shot-8", "zero-shot", "chat", "plain")
SLOT = "{question}"

PREAMBLE = "As an expert problem solver, solve step by step the following mathematical questions."
STEPS = "Let's think step by step."
NEXT_QUESTION = ("\nQ:",)

_EXEMPLARS = """
There are 15 trees in the grove. Grove workers will plant trees in the grove today. After they are done, there
  will be 21 trees. How many trees did the grove workers plant today? | There are 15 trees originally. Then there
  were 21 trees after some more were planted. So there must have been 21 - 15 = 6. | 6
If there are 3 cars in the parking lot and 2 more cars arrive, how many cars are in the parking lot? | There
  are originally 3 cars. 2 more cars arrive. 3 + 2 = 5. | 5
Leah had 32 chocolates and her sister had 42. If they ate 35, how many pieces do they have left in total? |
  Originally, Leah had 32 chocolates. Her sister had 42. So in total they had 32 + 42 = 74. After eating 35, they
  had 74 - 35 = 39. | 39
Jason had 20 lollipops. He gave Denny some lollipops. Now Jason has 12 lollipops. How many lollipops did Jason
  give to Denny? | Jason started with 20 lollipops. Then he had 12 after giving some to Denny. So he gave Denny
  20 - 12 = 8. | 8
Shawn has five toys. For Christmas, he got two toys each from his mom and dad. How many toys does he have now?
  | Shawn started with 5 toys. If he got 2 toys each from his mom and dad, then that is 4 more toys. 5 + 4 = 9. |
  9
There were nine computers in the server room. Five more computers were installed each day, from monday to
  thursday. How many computers are now in the server room? | There were originally 9 computers. For each of 4
  days, 5 more computers were added. So 5 * 4 = 20 computers were added. 9 + 20 is 29. | 29
Michael had 58 golf balls. On tuesday, he lost 23 golf balls. On wednesday, he lost 2 more. How many golf balls
  did he have at the end of wednesday? | Michael started with 58 golf balls. After losing 23 on tuesday, he had
  58 - 23 = 35. After losing 2 more, he had 35 - 2 = 33 golf balls. | 33
Olivia has $23. She bought five bagels for $3 each. How much money does she have left? | Olivia had 23 dollars.
  5 bagels for 3 dollars each will be 5 x 3 = 15 dollars. So she has 23 - 15 dollars left. 23 - 15 is 8. | 8
"""
EXEMPLARS: tuple[tuple[str, ...], ...] = tuple(
    tuple(" ".join(shot.split()).split(" | ")) for shot in re.split(r"\n(?! )", _EXEMPLARS.strip())
)
"""The eight worked examples that Wei et al. 2022 (arXiv 2201.11903, appendix) wrote and nearly every GSM8K result since
has used: (question, worked solution, answer)."""


@dataclass(frozen=True)
class Prompts:
    """One way to ask. ``stop`` are the texts at which a completion ends."""

    style: str
    build: Callable[[str], str] = field(compare=False)
    stop: tuple[str, ...] = ()
    chat: bool = False
    thinking: bool = False
    """The prompt ends inside a thought: completions begin there."""
    date: str | None = None
    """The day that the chat template writes into each prompt; None where it writes none."""

    def described(self) -> dict[str, Any]:
        """For the record of a run."""
        kept = {"style": self.style, "chat": self.chat, "thinking": self.thinking, "stop": list(self.stop)}
        return {**kept, "example": self.build(SLOT), **({"date": self.date} if self.date else {})}


PLAIN = Prompts("plain", lambda question: question)


def make_prompts(
    style: str = "zero-shot",
    tokenizer: Any = None,
    *,
    system: str | None = None,
    thinking: bool | None = None,
    stop: Sequence[str] | None = None,
    today: date | None = None,
) -> Prompts:
    """The prompts of a style. ``tokenizer`` is needed by ``chat`` alone; its template gets ``system`` and ``thinking``.

    ``today`` is the day for templates that write one, by default this one: a run that goes on tomorrow must give the
    day it began (`Prompts.date`), or its prompts change.

    Raises CcaError for an unknown style, options another style has, and a tokenizer without a usable template.
    """
    if stop is not None and not all(stop):
        raise CcaError("stop: expected texts with at least one character, got an empty one")
    if style != "chat" and (system is not None or thinking is not None):
        option = "system" if system is not None else "thinking"
        raise CcaError(f"prompt {style!r}: {option!r} is an option of 'chat' alone; write it into the prompt")
    chosen = NEXT_QUESTION if stop is None else tuple(stop)
    if style == "few-shot-8":
        return Prompts(style, few_shot, chosen)
    if style == "zero-shot":
        return Prompts(style, lambda question: f"Q: {question}\nA:", chosen)
    given = () if stop is None else tuple(stop)
    if style == "plain":
        return Prompts(style, PLAIN.build, given)
    if style == "chat":
        return _chat(tokenizer, system, thinking, given, today or date.today())
    if SLOT in style:
        return Prompts(style, lambda question: style.replace(SLOT, question), given)
    known = f"{', '.join(STYLES)} or a text with {SLOT} in it"
    raise CcaError(f"prompt: expected {known}, got {style!r}{suggestion(style, STYLES)}")


def few_shot(question: str) -> str:
    """``question`` after the eight worked examples."""
    shots = [
        f"Q: {asked}\nA: {STEPS} {solution} The final answer is {answer}." for asked, solution, answer in EXEMPLARS
    ]
    return "\n\n".join([PREAMBLE, *shots, f"Q: {question}\nA: {STEPS}"])


def _chat(tokenizer: Any, system: str | None, thinking: bool | None, stop: tuple[str, ...], today: date) -> Prompts:
    if tokenizer is None:
        raise CcaError("prompt 'chat': expected the model's tokenizer, got none; name the model (--model)")
    if not getattr(tokenizer, "chat_template", None):
        raise CcaError(
            "prompt 'chat': expected a tokenizer with a chat template, this one has none; take few-shot-8 or zero-shot"
        )
    dates: list[str] = []

    def strftime_now(form: str) -> str:
        dates.append(form)
        return today.strftime(form)

    before = [] if system is None else [{"role": "system", "content": system}]

    def rendered(question: str, generate: bool = True, think: bool | None = thinking) -> str:
        messages = [*before, {"role": "user", "content": question}]
        # Two names are in use for the switch; a template ignores what it does not know.
        options = {} if think is None else {"enable_thinking": think, "thinking": think}
        try:
            text = tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=generate, strftime_now=strftime_now, **options
            )
        except (TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
            reason = " ".join(str(error).split())[:200]
            with_system = " with a system message" if system is not None else ""
            raise CcaError(f"prompt 'chat': the model's chat template fails{with_system}: {reason}") from error
        return str(text)

    whole, asked = rendered(SLOT), rendered(SLOT, generate=False)
    if SLOT not in whole:
        raise CcaError("prompt 'chat': the model's chat template leaves the question out")
    if system is not None and system.strip() and system.strip() not in whole:
        raise CcaError("prompt 'chat': the model's chat template drops the system message; leave task.system out")
    if thinking is not None and rendered(SLOT, think=True) == rendered(SLOT, think=False):
        raise CcaError("prompt 'chat': the model's chat template has no switch for thinking; leave task.thinking out")
    # A system message may speak of thoughts; only what the template adds for the answer tells where it begins.
    opening = whole.removeprefix(asked)
    written = today.isoformat() if dates else None
    return Prompts("chat", rendered, stop, chat=True, thinking=open_thought(opening), date=written)


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
    names = {"id": row.get("id", f"{index}"), "template": row.get("template", "default")}
    identity, template = (str(name) if type(name) is int else name for name in names.values())
    prompt, question = row.get("prompt"), row.get("question")
    if (prompt is None) == (question is None):
        raise CcaError(f"{where}: expected either 'prompt' or 'question', got {'both' if prompt else 'neither'}")
    answer = row.get("answer")
    if isinstance(answer, int | float) and not isinstance(answer, bool):
        answer = str(answer)
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
