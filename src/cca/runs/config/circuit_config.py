"""The ``circuit`` section of a run: what locates the circuit, and how.

``localiser`` is one of `cca.circuits.localisers.LOCALISERS`, or several joined by |, & or -, read from left to right.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from cca.circuits.size import Size
from cca.section import Section


class CircuitConfig(Section):
    localiser: str = "auto"
    """What picks the components: auto (natural with retention sets, else attribution) or a localiser."""

    @field_validator("localiser")
    @classmethod
    def _known(cls, localiser: str) -> str:
        if localiser != "auto":
            from cca.circuits.localisers import check_localiser  # which loads torch

            check_localiser(localiser)
        return localiser

    sign: Literal["absolute", "signed"] = "absolute"
    """Rank by the size of the gate gradient, or by itself; head-gating: also interfering components, or only needed."""
    kinds: tuple[Literal["q", "k", "v", "neuron"], ...] | None = None
    """Kinds to choose from; by default all for natural, neurons for others; all, dcm and file do not ask."""
    size: str | int = "2% of parameters"
    """A number of components, 'N% of components' or 'N% of parameters'; all, file and dcm by coefficient do not ask."""

    @field_validator("size")
    @classmethod
    def _readable(cls, size: str | int) -> str | int:
        Size.parse(size)
        return size

    file: Path | None = None
    """file: a circuit file to use as it is."""
    gate: Literal["double", "amplify", "ablate"] = "double"
    """dcm: what a gate value m does to an activation: 2m, 1+m or m."""
    learning_rate: float = Field(default=5e-3, gt=0)
    """dcm: Adam's learning rate."""
    decay_every: int = Field(default=5, ge=1)
    """dcm: epochs between two decays of the learning rate."""
    decay: float = Field(default=0.9, gt=0, le=1)
    """dcm: factor of each decay."""
    epochs: int = Field(default=50, ge=1)
    """dcm: passes over the pivots."""
    batch_size: int = Field(default=8, ge=1)
    """dcm: pivots a step."""
    penalty: float = Field(default=0.01, ge=0)
    """dcm: L1 coefficient on the gates (paper: swept from 1e-4 to 1e-1)."""
    initial: float = Field(default=1.0, ge=0, le=1)
    """dcm: gate value to start from."""
    threshold: float = Field(default=0.5, ge=0, lt=1)
    """dcm: a gate above it puts its component into the circuit."""
    relaxation: Literal["clamp", "hard-concrete", "annealed"] = "clamp"
    """dcm: how gates are trained: clamped to [0, 1] (paper), L0 by hard-concrete draws, or an annealed sigmoid."""
    penalty_for: Literal["coefficient", "size"] = "coefficient"
    """dcm: keep the penalty as it is, or adapt it until the mask has 'size' components of all kinds."""
