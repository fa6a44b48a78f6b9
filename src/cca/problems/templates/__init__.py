"""The check of `cca task check`: a template parses, its conditions can be met, and its instances are sound.

A *fault* keeps a template from giving sound instances. A *note* is about a flaw of some values only (samples leave
those instances out) or of the worked steps only (the answer is sound).
"""

from __future__ import annotations

import ast
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cca.errors import CcaError
from cca.files import Row
from cca.problems.templates.soundness import disagreement
from cca.problems.templates.template import Instance, Template, read_template

DRAWS = 100
"""Draws that a template is judged by, in addition to the instances asked for."""

PATIENCE = 50
"""Samples in a row without a new question that end the search for distinct instances."""


@dataclass(frozen=True)
class Check:
    """``fault`` is empty for a sound template; ``distinct`` counts different questions, up to the number asked for."""

    name: str
    fault: str
    notes: tuple[str, ...] = ()
    distinct: int = 0

    @property
    def sound(self) -> bool:
        return not self.fault


def check_file(name: str, path: Path, wanted: int = 20) -> Check:
    """Judge one template file; never raises for a faulty one."""
    try:
        template = read_template(name, path)
    except CcaError as error:
        return Check(name, str(error).removeprefix(f"{path}: "))
    return check_template(template, wanted)


def check_template(template: Template, wanted: int = 20) -> Check:
    """Judge a parsed template by ``DRAWS`` draws of a fixed seed and ``wanted`` distinct instances."""
    generator, notes = np.random.default_rng(0), [*remarks(template)]
    misses: Counter[str] = Counter()
    examples: dict[str, str] = {}
    answers: set[str] = set()
    try:
        for _ in range(DRAWS):
            instance = template.draw(generator)
            answers.add(instance.answer)
            found = {"disagreement": disagreement(instance.solution, instance.answer)}
            found |= {str(place): flaw(instance) for place, flaw in enumerate(template.flaws)}
            for kind, message in found.items():
                if message:
                    misses[kind] += 1
                    examples.setdefault(kind, message)
        distinct = sum(1 for _, _ in zip(range(wanted), distinct_instances(template, generator), strict=False))
    except CcaError as error:
        return Check(template.name, str(error).removeprefix(f"template {template.name}: "), tuple(notes))
    for kind, count in sorted(misses.items()):
        left_out = "" if count == DRAWS else ", left out of samples"
        notes.append(f"{examples[kind]} (in {count} of {DRAWS} draws{left_out})")
    if len(answers) == 1:
        notes.append(f"the answer is always {answers.pop()}")
    fault = "" if distinct >= wanted else f"only {distinct} distinct instances found, {wanted} asked for"
    return Check(template.name, fault, tuple(notes), distinct)


def distinct_instances(template: Template, generator: np.random.Generator) -> Iterator[Instance]:
    """Instances with different questions, until none is new for a while. Raises TemplateError."""
    seen: set[str] = set()
    stale = 0
    while stale < PATIENCE + len(seen) // 10:
        instance = template.sample(generator)
        if instance.question in seen:
            stale += 1
        else:
            stale = 0
            seen.add(instance.question)
            yield instance


def template_generator(template: Template, seed: int) -> np.random.Generator:
    """A generator per template, so that a template's instances do not depend on the other templates."""
    return np.random.default_rng([seed, zlib.crc32(template.name.encode())])


def instance_rows(template: Template, count: int, seed: int) -> list[Row]:
    """At most ``count`` distinct instances as rows of a problem file. Raises TemplateError."""
    made = distinct_instances(template, template_generator(template, seed))
    return [
        {
            "id": f"{template.name}-{number:04d}",
            "template": template.name,
            "question": instance.question,
            "solution": instance.solution,
            "answer": instance.answer,
        }
        for number, instance in zip(range(count), made, strict=False)
    ]


def remarks(template: Template) -> Iterator[str]:
    """Remarks for the author: slips, and values that the answer needs but the question does not give.

    A value that an equation of the conditions ties to others counts as given.
    """
    yield from template.remarks
    given = set(template.question.names)
    for condition in template.conditions:
        if any(isinstance(node, ast.Eq) for node in ast.walk(condition.tree)):
            given |= condition.names
    targets = {target for draw in template.draws for target in draw.targets}
    for name in sorted(template.answer.names & targets - given):
        yield f"the answer depends on {name!r}, which the question does not tell"
