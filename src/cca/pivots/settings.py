"""The sections ``traces`` and ``pivots`` of a run; library functions take them too."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cca.section import Section


class TracesConfig(Section):
    samples: int = Field(default=10, ge=1)
    """Most sampled traces per problem; sampling stops at the first whose verdict differs from the greedy one's."""
    temperature_when_right: float = Field(default=1.2, gt=0)
    """Sampling temperature where the greedy trace is right."""
    temperature_when_wrong: float = Field(default=0.8, gt=0)
    """Sampling temperature where the greedy trace is wrong."""
    max_new_tokens: int | None = Field(default=None, ge=1)
    """Longest completion in tokens; by default twice the longest worked solution, or 512 without solutions."""
    batch_size: int = Field(default=128, ge=1)
    """Completions decoded together."""
    chunk: int = Field(default=256, ge=1)
    """Problems per chunk; a killed run resumes after its last whole chunk."""
    allow_cut_off: bool = False
    """Go on where the longest completion cut off more than a quarter of the greedy traces before their answer."""
    templates_below: float | None = Field(default=None, gt=0, le=1)
    """Train only on templates where the base is less accurate than this (paper: 0.8); by default on all."""


class PivotsConfig(Section):
    method: Literal["branching", "first-difference", "success-rate"] = "branching"
    """How pivots are found: where the greedy verdict changes, where traces part, or where the success rate changes."""
    per_problem: int = Field(default=1, ge=1)
    """branching, success-rate: most pivots per problem."""
    threshold: float = Field(default=0.5, gt=0, le=1)
    """success-rate: least difference between the success rates after a pivot's two tokens."""
    samples: int = Field(default=16, ge=2)
    """success-rate: completions sampled for each rate."""
    temperature: float = Field(default=1.0, gt=0)
    """success-rate: sampling temperature of these completions."""
    most: int | None = Field(default=None, ge=1)
    """Use at most this many pivots, the first in the order of the problems."""
