"""The ``amplify`` section of a configuration: the objective, kind, size and budget of steps on the circuit's rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from cca.section import Section


class BudgetConfig(Section):
    points: float = Field(default=1.0, ge=0)
    """A step may lose at most this many points on any retention set's validation half."""
    drift: float = Field(default=2e-5, gt=0)
    """A step may drift at most this many nats per token on the texts of those halves that nothing was fitted to."""


class AmplifyConfig(Section):
    objective: Literal["softplus", "logit-gap", "cross-entropy", "dpo"] = "softplus"
    """Loss that the steps minimise: of each logit gap, of the desired token alone, or of the gap against the base's."""
    beta: float = Field(default=1.0, gt=0)
    """dpo: how sharply the gap counts against the base's."""
    anchor: float = Field(default=0.0, ge=0)
    """Weight of the token KL from the base added to the objective, on half of the guarding retention problems."""
    optimiser: Literal["gradient-descent", "adam"] = "gradient-descent"
    """Update rule of the rows."""
    whitening: Literal["auto", "fisher", "none"] = "auto"
    """fisher: whiten steps by the Fisher information of retention texts, sparing other skills; auto: where possible."""
    damping: float = Field(default=1e-3, gt=0)
    """fisher: added to the Fisher information of every direction, in units of its mean."""
    rows: Literal["paper", "full", "up"] = "paper"
    """paper: q/k/v and up rows; full: also gate rows, down and o columns; up: up rows alone."""
    steps: int = Field(default=40, ge=1)
    """Most steps to take."""
    predicted_change: float | None = Field(default=0.2, gt=0)
    """gradient-descent: size the first step to lower the mean objective by this much, and keep its coefficient."""
    coefficient: float | None = Field(default=None, gt=0)
    """A fixed step coefficient (paper: 1e-4), or Adam's learning rate."""
    validate_at: tuple[int, ...] = ()
    """Steps to validate at; empty means every step."""
    patience: int = Field(default=5, ge=1)
    """Stop after this many validations that bring no better step."""
    batch_size: int = Field(default=32, ge=1)
    """Pivots per forward and backward pass; the step is always over all pivots."""
    gradient_checkpointing: bool = False
    """Keep no activations inside layers: less memory, about a third more time per step."""
    budget: BudgetConfig = BudgetConfig()
    """Limits on the cost of an accepted step to other skills."""

    @model_validator(mode="before")
    @classmethod
    def _renamed(cls, given: Any) -> Any:
        """Read the old name of ``whitening``; where both are given, as over a preset, the old one is the user's."""
        if not isinstance(given, Mapping) or "precondition" not in given:
            return given
        rest = {key: value for key, value in given.items() if key != "precondition"}
        return {**rest, "whitening": given["precondition"]}
