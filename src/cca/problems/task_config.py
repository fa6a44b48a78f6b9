"""A task is named in run.yaml by a name, three files, or a source with what to make of it.

::

    task: gsm-symbolic
    task: {train: train.jsonl, validation: val.jsonl, test: test.jsonl, prompt: chat}
    task: {source: gsm-symbolic, variant: p1, split: by-template, prompt: few-shot-8}

The texts below the fields are the help.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Discriminator, Field, Tag, field_validator

from cca.section import Section

SPLITS = ("train", "validation", "test")
SplitName = Literal["train", "validation", "test"]


class PromptSpec(Section):
    """What turns a question into a prompt. Rows that carry a ``prompt`` keep it as it is."""

    prompt: str | None = None
    """few-shot-8, zero-shot, plain, chat, or a text with {question} in it; by default what suits the source."""
    system: str | None = None
    """chat: the system message."""
    thinking: bool | None = None
    """chat: switch thinking on or off where the template can (Qwen3's enable_thinking)."""
    stop: tuple[str, ...] | None = None
    """Texts at which a completion ends; by default those of the prompt style."""


class TaskFiles(PromptSpec):
    """Three problem files."""

    train: Path
    """Problems whose traces give the pivots."""
    validation: Path
    """Problems that choose the best step."""
    test: Path
    """Problems for the report, touched once at the end; templates that train lacks count as unseen."""


class TaskSource(PromptSpec):
    """One source, and how it is split."""

    source: str
    """A name (`cca task list`), hf:OWNER/DATASET, a problem file, a folder of templates, or package.module:function."""
    variant: str | None = None
    """Which of a dataset's configurations: gsm-symbolic has main, p1 and p2."""
    path: Path | None = None
    """A local copy of the dataset's files (a folder or one file), read in place of the hub."""
    revision: str | None = None
    """Revision of a hub dataset."""
    fields: dict[str, str] = Field(default_factory=dict)
    """Where question, answer, template, id and solution stand: a column, or a text with {column} in it."""
    splits: dict[SplitName, str] | None = None
    """Which of the dataset's splits each of ours is made of; one that several share is divided between them."""
    split: Literal["within-templates", "by-template"] = "within-templates"
    """within-templates: every split has instances of every template (the paper); by-template: no template is in two."""
    shares: tuple[float, float, float] = (0.52, 0.08, 0.40)
    """Shares of train, validation and test."""
    unseen: float = Field(default=0.0, ge=0, lt=1)
    """within-templates: share of the templates that are kept for the test split alone."""
    instances: int = Field(default=50, ge=3)
    """Template folders: instances to sample of each template."""
    limit: int | None = Field(default=None, ge=1)
    """At most this many problems a split, drawn with the seed."""

    @field_validator("shares")
    @classmethod
    def _shares(cls, shares: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(shares) <= 0 or abs(sum(shares) - 1) > 1e-6:
            raise ValueError("expected three shares above 0 that add up to 1")
        return shares


def _shape(value: Any) -> str:
    if isinstance(value, TaskFiles | TaskSource):
        return "files" if isinstance(value, TaskFiles) else "source"
    if not isinstance(value, dict):
        return "name"
    return "source" if "source" in value else "files"


TaskSpec = Annotated[
    Annotated[str, Tag("name")] | Annotated[TaskFiles, Tag("files")] | Annotated[TaskSource, Tag("source")],
    Discriminator(_shape),
]
SHAPES: dict[str, type[BaseModel]] = {"files": TaskFiles, "source": TaskSource}
"""The two mappings by the tag that pydantic puts into the place of a fault."""
