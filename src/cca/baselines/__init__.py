"""Baselines by name, and their settings: ``lora-pivots`` is LoRA on the pivots, ``scaling`` needs no training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, ValidationError

from cca.amplify.settings import AmplifyConfig
from cca.errors import CcaError
from cca.section import Section, first_fault

TUNED = ("lora", "finetune")
"""Trained tensors: adapters on every linear layer, or every weight."""
DATA = ("pivots", "gold", "own")
"""Training data: the pivots with their objective, the gold solutions, or the model's own right traces."""
BASELINES = (*(f"{how}-{data}" for how in TUNED for data in DATA), "scaling")


class BaselineSettings(Section):
    """Options of a baseline; the objective on pivots is the run's own (``amplify.objective``)."""

    learning_rate: float = Field(default=1e-3, gt=0)
    """Adam's."""
    rank: int = Field(default=4, ge=1)
    """lora: rank of every adapter."""
    alpha: int | None = Field(default=None, ge=1)
    """lora: scale of the adapters; by default twice the rank."""
    steps: int = Field(default=40, ge=1)
    """Most steps to take."""
    texts: int = Field(default=32, ge=1)
    """gold, own: solutions per step; on pivots every step is over all of them."""
    validate_every: int = Field(default=1, ge=1)
    """Steps between two validations."""
    patience: int = Field(default=AmplifyConfig().patience, ge=1)
    """Stop after this many validations that bring no better step; in a comparison by default amplify.patience."""
    factors: tuple[float, ...] = (1.1, 1.25, 1.5, 2.0, 3.0)
    """scaling: factors of the circuit's activations, one validation each."""


def baseline_settings(given: Mapping[str, Any]) -> BaselineSettings:
    """Raises CcaError naming the option that is unknown or out of range."""
    try:
        return BaselineSettings.model_validate(dict(given))
    except ValidationError as error:
        known = list(BaselineSettings.model_fields)
        raise CcaError(first_fault(error, "baseline option", lambda _: known)) from error
