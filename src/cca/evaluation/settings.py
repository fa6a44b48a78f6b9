"""The section ``evaluate`` of a configuration."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from cca.section import Section


class LmEvalConfig(Section):
    include_path: Path | None = None
    """A folder with more task files, next to lm-evaluation-harness's."""
    limit: int | None = Field(default=None, ge=1)
    """Only the first documents of each task, this many: for trying out, not for reporting."""
    num_fewshot: int | None = Field(default=None, ge=0)
    """Examples in the prompt; by default the task's number."""
    batch_size: int = Field(default=1, ge=1)
    """Requests per forward pass; 1 is lm-eval's default, and numbers can differ in the last digit between sizes."""
    chat_template: bool = False
    """Put requests through the tokenizer's chat template."""


class EvaluateConfig(Section):
    lm_eval: LmEvalConfig = LmEvalConfig()
    """How the retention entries lm_eval:TASK are run."""
    random_controls: int = Field(default=1, ge=0)
    """Random circuits of equal size and mix, amplified and evaluated the same way."""
