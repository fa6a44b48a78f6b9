"""A Template: a word problem whose names and numbers are drawn again for every instance.

The language is the one of GSM-Symbolic's published templates (arXiv 2410.05229). A template file is JSON with
``question_annotated`` and ``answer_annotated``::

    {name,Jerry} has {n,5} {fruit,apple}s and eats {k,2}. How many are left?

    #init:
    - name = sample(names_male)
    - fruit = sample(fruits)
    - $n = range(3, 20)
    - $k = range(1, 10)

    #conditions:
    - k < n

    #answer: n - k

The worked answer holds expressions in its slots and ends with ``#### {n-k}``. Other keys of the file are kept in
``Template.extra``.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from cca.errors import CcaError, suggestion
from cca.files import read_json
from cca.problems.templates.draws import Draw, parse_draws
from cca.problems.templates.exact_numbers import ExpressionError, brief, number, written
from cca.problems.templates.expressions import Expression, compiled
from cca.problems.templates.sampling import Sampler
from cca.problems.templates.soundness import disagreement, negative, untruncated, wrong_step
from cca.problems.templates.text import MAXIMUM_COST, Sections, Text, parsed_text
from cca.problems.templates.vocabulary import LISTS

LARGEST_FILE = 200_000

PROBES = 30
"""Draws that show which flaws of a template can be avoided."""

TRIES = 200
"""Draws before a template whose worked solution disagrees with its answer is given up."""

_KEYS = ("question_annotated", "answer_annotated")


class TemplateError(CcaError):
    """A template is faulty; the message is one line that names it and the fault."""


@dataclass(frozen=True, slots=True)
class Instance:
    """One problem made from a template. ``answer`` is the number in digits that ``solution`` ends with."""

    template: str
    values: dict[str, Any]
    question: str
    solution: str
    answer: str


Flaw = Callable[[Instance], str]


@dataclass(frozen=True)
class Template:
    """Parsed once, sampled often; ``conditions``, ``answer`` and the texts are compiled.

    ``remarks`` name slips of the author that were read in the only way they make sense.
    """

    name: str
    question: Text
    solution: Text
    draws: tuple[Draw, ...]
    conditions: tuple[Expression, ...]
    answer: Expression
    remarks: tuple[str, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, name: str, content: Any, where: str | None = None) -> Template:
        """The template in a JSON object. Raises TemplateError naming ``where`` and the fault."""
        where = where or f"template {name}"
        if not isinstance(content, dict):
            raise TemplateError(f"{where}: expected a JSON object, got {type(content).__name__}")
        for key in _KEYS:
            if not isinstance(content.get(key), str) or not content[key].strip():
                raise TemplateError(f"{where}: expected {key!r} to be a non-empty text, got {content.get(key)!r:.60}")
        extra = {key: value for key, value in content.items() if key not in _KEYS}
        try:
            return cls._compile(name, content["question_annotated"], content["answer_annotated"], extra)
        except ExpressionError as error:
            raise TemplateError(f"{where}: {error}") from error

    @classmethod
    def _compile(cls, name: str, annotated: str, worked: str, extra: dict[str, Any]) -> Template:
        sections = Sections.split(annotated)
        question, solution = parsed_text(sections.text), parsed_text(worked)
        draws, remarks = _drawn(sections.init, question.defaults)
        conditions = tuple(part for line in sections.conditions for part in _conditions(line))
        if sum(condition.cost for condition in conditions) > MAXIMUM_COST:
            raise ExpressionError("expected less work in #conditions, got conditions that take too long")
        answer = compiled(sections.answer)
        readers = [(draw.needs, f"'{brief(draw.line)}'") for draw in draws]
        readers += [(condition.names, f"condition '{brief(condition.text)}'") for condition in conditions]
        readers += [(answer.names, f"#answer '{brief(answer.text)}'"), (question.names, "the question")]
        _check_names([*readers, (solution.names, "the worked answer")], draws)
        return cls(name, question, solution, draws, conditions, answer, remarks, extra)

    @cached_property
    def sampler(self) -> Sampler:
        return Sampler(self.draws, self.conditions)

    @cached_property
    def avoidable(self) -> tuple[Flaw, ...]:
        """The flaws that some instances have and others do not, found in a few draws of a fixed seed."""
        generator, counts = np.random.default_rng(0), dict.fromkeys(self.flaws, 0)
        for _ in range(PROBES):
            instance = self.draw(generator)
            for flaw in counts:
                counts[flaw] += bool(flaw(instance))
        return tuple(flaw for flaw, count in counts.items() if 0 < count < PROBES)

    @cached_property
    def flaws(self) -> tuple[Flaw, ...]:
        """Checks of an instance whose solution ends with its answer; each returns one line on its flaw, or nothing."""
        exact = untruncated(self.answer) or self.answer

        def truncated(instance: Instance) -> str:
            value = _digits(exact, instance.values)
            return "" if value == instance.answer else f"the answer {instance.answer} is cut down from {value}"

        def below_zero(instance: Instance) -> str:
            found = negative(instance.solution)
            return found and f"the worked solution has a negative number: {found}"

        def unequal(instance: Instance) -> str:
            found = wrong_step(instance.solution)
            return found and f"a worked step is wrong: {found}"

        return truncated, below_zero, unequal

    def sample(self, generator: np.random.Generator) -> Instance:
        """One instance whose worked solution ends with its answer, without a flaw that can be avoided.

        Raises TemplateError when the conditions cannot be met, or the solution never agrees with the answer.
        """
        fault, spare = "", None
        for _ in range(TRIES):
            instance = self.draw(generator)
            fault = disagreement(instance.solution, instance.answer)
            if not fault:
                if not any(flaw(instance) for flaw in self.avoidable):
                    return instance
                spare = spare or instance
        if spare is None:
            raise TemplateError(f"template {self.name}: {fault} (in each of {TRIES} draws)")
        return spare

    def draw(self, generator: np.random.Generator) -> Instance:
        """One instance, even when its solution disagrees with its answer. Raises TemplateError."""
        try:
            values = self.sampler.sample(generator)
            question, solution = self.question.render(values).strip(), self.solution.render(values).strip()
            return Instance(self.name, values, question, solution, _digits(self.answer, values))
        except ExpressionError as error:
            raise TemplateError(f"template {self.name}: {error}") from error

    def render(self, annotated: str, values: Mapping[str, Any]) -> str:
        """Another annotated text (a hint, a solution with a planted mistake), filled in with the same values."""
        try:
            return parsed_text(annotated).render(values).strip()
        except ExpressionError as error:
            raise TemplateError(f"template {self.name}: {error}") from error


def load_templates(folder: Path) -> list[Template]:
    """Every ``*.json`` of a folder and the folders in it, sorted by name. Raises CcaError naming file and fault.

    A template in an inner folder is named with it: ``p1/0003``.
    """
    return [read_template(name, path) for name, path in template_files(folder)]


def read_template(name: str, path: Path) -> Template:
    """The template in a file, under ``name``. Raises TemplateError naming file and fault."""
    if path.is_file() and path.stat().st_size > LARGEST_FILE:
        raise TemplateError(f"{path}: expected a template of at most {LARGEST_FILE} bytes, got {path.stat().st_size}")
    return Template.parse(name, read_json(path), str(path))


def template_files(folder: Path) -> list[tuple[str, Path]]:
    """(name, path) of every template file, sorted by name. Raises CcaError when there is none."""
    folder = Path(folder)
    if not folder.is_dir():
        raise CcaError(f"{folder}: expected a folder of template files (*.json), got no folder")
    paths = sorted(folder.rglob("*.json"))
    if not paths:
        raise CcaError(f"{folder}: expected a folder of template files, found no *.json in it")
    return sorted((path.relative_to(folder).with_suffix("").as_posix(), path) for path in paths)


def _digits(answer: Expression, values: Mapping[str, Any]) -> str:
    return written(number(answer(values), "#answer"))


def _drawn(lines: Sequence[str], defaults: Mapping[str, str]) -> tuple[tuple[Draw, ...], tuple[str, ...]]:
    """(the draws of #init, remarks). A draw from an unknown list gets the default of the question."""
    draws: list[Draw] = []
    remarks: list[str] = []
    for draw in [draw for line in lines for draw in parse_draws(line)]:
        twice = [earlier for earlier in draws if set(earlier.targets) & set(draw.targets)]
        if twice and (twice[0].targets != draw.targets or draw.needs & set(draw.targets)):
            raise ExpressionError(f"{draw.targets[0]!r} is given values twice in #init")
        if twice:
            remarks.append(f"{draw.targets[0]!r} is given values twice in #init; the last line counts")
            draws.remove(twice[0])
        draws.append(draw)
    targets = {target for draw in draws for target in draw.targets}
    for place, draw in enumerate(draws):
        unknown = sorted(draw.needs - targets)
        if unknown and draw.is_list and all(target in defaults for target in draw.targets):
            draws[place] = draw.fixed([defaults[target] for target in draw.targets])
            remarks.append(f"list {unknown[0]!r} is not known; the default of the question stands in")
    return tuple(draws), tuple(remarks)


def _conditions(line: str) -> list[Expression]:
    """The conditions of one line; commas separate them."""
    whole = compiled(line)
    return [Expression(line, part) for part in whole.tree.elts] if isinstance(whole.tree, ast.Tuple) else [whole]


def _check_names(readers: Sequence[tuple[frozenset[str], str]], draws: Sequence[Draw]) -> None:
    """Raise ExpressionError for the first of the (names, where they are read) that no draw and no list defines."""
    known = {target for draw in draws for target in draw.targets}.union(LISTS)
    for names, where in readers:
        for unknown in sorted(names - known):
            hint = suggestion(unknown, sorted(known))
            raise ExpressionError(f"{where} reads {unknown!r}, which #init does not define{hint}")
