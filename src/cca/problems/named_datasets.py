"""The datasets known by name: where they live on the hub, and how their rows become problems."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

SUBJECTS = (
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
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


def _gsm_symbolic(config: str) -> Variant:
    fields = {
        "id": "{id}-{instance}",
        "template": "{id}",
        "question": "question",
        "answer": "answer",
        "solution": "answer",
    }
    return Variant("apple/GSM-Symbolic", (config,), fields, TEST_ONLY)


def _gsm8k(config: str) -> Variant:
    fields = {"question": "question", "answer": "answer", "solution": "answer"}
    return Variant("openai/gsm8k", (config,), fields, TRAIN_AND_TEST)


def _math(*configs: str) -> Variant:
    fields = {"question": "problem", "answer": "solution", "solution": "solution"}
    return Variant("EleutherAI/hendrycks_math", configs, fields, TRAIN_AND_TEST)


_SVAMP = {"id": "ID", "question": "{Body} {Question}", "answer": "Answer"}
_MATH_500 = {"id": "unique_id", "question": "problem", "answer": "answer", "solution": "solution"}

NAMED: dict[str, NamedDataset] = {
    "gsm-symbolic": NamedDataset(
        "grade-school word problems made from templates, 50 instances each (arXiv 2410.05229)",
        {name: _gsm_symbolic(name) for name in ("main", "p1", "p2")},
    ),
    "gsm8k": NamedDataset(
        "grade-school word problems (arXiv 2110.14168)", {name: _gsm8k(name) for name in ("main", "socratic")}
    ),
    "svamp": NamedDataset(
        "word problems varied to catch shortcuts (arXiv 2103.07191)",
        {"default": Variant("ChilleD/SVAMP", (None,), _SVAMP, TRAIN_AND_TEST)},
    ),
    "math": NamedDataset(
        "competition mathematics (arXiv 2103.03874); 500 is the test subset MATH-500",
        {
            "all": _math(*SUBJECTS),
            **{subject: _math(subject) for subject in SUBJECTS},
            "500": Variant("HuggingFaceH4/MATH-500", (None,), _MATH_500, TEST_ONLY),
        },
        prompt=BOXED,
        judge="math",
    ),
}
