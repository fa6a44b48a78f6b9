"""The published templates of GSM-Symbolic, in the folder that CCA_TEMPLATES names."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from cca.problems.templates import check_template
from cca.problems.templates.template import load_templates

FOLDER = Path(os.environ.get("CCA_TEMPLATES", ""))
pytestmark = pytest.mark.skipif(
    "CCA_TEMPLATES" not in os.environ, reason="CCA_TEMPLATES names no folder of GSM-Symbolic's published templates"
)


def test_every_published_template_gives_sound_instances() -> None:
    templates = load_templates(FOLDER)
    assert len(templates) >= 100
    for template in templates:
        assert not template.remarks, template.name
        questions, generator = set(), np.random.default_rng(1)
        for _ in range(5):
            instance = template.sample(generator)
            text = instance.question + instance.solution
            assert not re.search(r"[{}]|<<|>>|\d\.\d{5}|None|Fraction", text), instance
            assert re.findall(r"-?\d+(?:\.\d+)?", instance.solution)[-1] == instance.answer, instance
            assert not instance.answer.startswith("-"), instance
            questions.add(instance.question)
        assert len(questions) >= 4, template.name


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("p1/0000", "a worked step is wrong: .* / 12 = .* \\(in 100 of 100 draws\\)"),
        ("p1/0006", "is not a whole or decimal number .* left out of samples"),
        ("p1/0025", "is cut down from .* left out of samples"),
    ],
)
def test_faults_of_published_templates_are_named(name: str, fault: str) -> None:
    template = next(one for one in load_templates(FOLDER / name.split("/")[0]) if one.name == name.split("/")[1])
    found = check_template(template)
    assert found.sound
    assert Counter(bool(re.search(fault, note)) for note in found.notes)[True] == 1
