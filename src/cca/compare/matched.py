"""Matched gain: what arms cost where they first are as accurate as asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Step = Mapping[str, Any]


def first_reaching(history: Sequence[Step], accuracy: float) -> Step | None:
    """The first step after the untouched model whose validation accuracy is at least ``accuracy``."""
    return next((step for step in history if step["step"] and step["accuracy"] >= accuracy - 1e-12), None)


def best_step(history: Sequence[Step], within_budget: bool = True) -> Step:
    """The most accurate step (of equals the one that drifted least), the untouched model included."""
    allowed = [step for step in history if step["in_budget"] or not within_budget or not step["step"]]
    return max(allowed, key=lambda step: (step["accuracy"], -step["drift"]))
