"""How steps are taken: gradient descent or Adam on the rows' masters, with the step sizes of `UpdateSettings`."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cca import distributed
from cca.engines.sampling import in_double
from cca.errors import CcaError
from cca.gradients.fisher import Precondition
from cca.gradients.trainable_rows import Key, TrainableRows
from cca.gradients.training_state import TrainingState, optimiser_tensors, restore_optimiser


@dataclass(frozen=True)
class UpdateSettings:
    objective: str = "softplus"
    optimiser: str = "gradient-descent"
    rows: str = "paper"
    steps: int = 40
    predicted_change: float | None = 0.05
    coefficient: float | None = None
    """Fixed step coefficient (paper: 1e-4) or Adam's learning rate; needed when predicted_change is not given."""
    validate_at: tuple[int, ...] = ()
    """Steps to validate at; empty means every step."""
    patience: int = 4
    """Stop after this many validations without a better step."""
    batch_size: int = 32
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory, a third more time."""


class Stepper:
    def __init__(
        self, trained: TrainableRows, settings: UpdateSettings, precondition: Precondition | None
    ) -> None:
        self.trained = trained
        self.leaves = trained.masters
        self.precondition = precondition
        self.coefficient = settings.coefficient
        self.first_coefficient = settings.coefficient
        self.predicted_change = settings.predicted_change
        self.keeps_last = settings.coefficient is None and not settings.validate_at
        """Whether steps are of predicted size, so that it is this run's to change, and each is judged."""
        self.last: dict[Key, Tensor] = {}
        """The directions of the last step, while it may still be halved."""
        self.adam: torch.optim.Adam | None = None
        if settings.optimiser == "adam":
            if settings.coefficient is None:
                raise CcaError(
                    "amplify: expected a coefficient (the learning rate) with optimiser adam, got none"
                )
            if precondition is not None:
                raise CcaError("amplify.precondition: expected optimiser gradient-descent, got adam")
            self.adam = torch.optim.Adam(self.leaves.values(), lr=settings.coefficient)
        elif settings.optimiser != "gradient-descent":
            raise CcaError(f"optimiser: expected gradient-descent or adam, got {settings.optimiser!r}")
        elif self.coefficient is None and self.predicted_change is None:
            raise CcaError("amplify: expected predicted_change or coefficient, got neither")

    def step(self) -> str | None:
        """Take one step and clear the gradients. Returns what forbids it, with the masters then of no more use."""
        gradients = {key: leaf.grad for key, leaf in self.leaves.items() if leaf.grad is not None}
        directions = self.precondition(gradients) if self.precondition else gradients
        promised = sum(_dot(gradients[key], directions[key]) for key in gradients)
        if not math.isfinite(promised):
            return "the gradient was not finite"
        if promised == 0.0:
            return "the gradient was zero"
        if self.adam:
            self.adam.step()
        else:
            if self.coefficient is None:
                assert self.predicted_change is not None
                self.coefficient = self.first_coefficient = self.predicted_change / promised
            with torch.no_grad():
                for key, direction in directions.items():
                    self.leaves[key].sub_(direction, alpha=self.coefficient)
            if self.keeps_last:
                self.last = dict(directions)
        for leaf in self.leaves.values():
            leaf.grad = None
            distributed.broadcast_(leaf.detach())
        return None if self.trained.finite() else "the rows were not finite"

    def halve(self) -> str | None:
        """Go back half of the last step, and take all further ones at half their size."""
        assert self.coefficient is not None
        self.coefficient /= 2
        with torch.no_grad():
            for key, direction in self.last.items():
                self.leaves[key].add_(direction, alpha=self.coefficient)
                distributed.broadcast_(self.leaves[key].detach())
        return None if self.trained.finite() else "the rows were not finite"

    def state(self) -> TrainingState:
        tensors = named("master", self.leaves) | named("last", self.last)
        if self.adam:
            for key, leaf in self.leaves.items():
                own = optimiser_tensors(self.adam, leaf)
                tensors |= {_name(f"adam.{part}", key): value for part, value in own.items()}
        return TrainingState(
            tensors, {"coefficient": self.coefficient, "first_coefficient": self.first_coefficient}
        )

    def restore(self, kept: TrainingState) -> None:
        self.trained.load(rows_named("master", kept, self.leaves))
        self.last = rows_named("last", kept, self.leaves)
        if self.adam:
            for key, leaf in self.leaves.items():
                parts = ("step", "exp_avg", "exp_avg_sq")
                restore_optimiser(
                    self.adam, leaf, {part: kept.tensors[_name(f"adam.{part}", key)] for part in parts}
                )
        self.coefficient = kept.facts["coefficient"]
        self.first_coefficient = kept.facts["first_coefficient"]


def named(part: str, rows: dict[Key, Tensor]) -> dict[str, Tensor]:
    """Rows under names that a `TrainingState` can hold; `rows_named` reads them back."""
    return {_name(part, key): value.detach().cpu() for key, value in rows.items()}


def rows_named(part: str, kept: TrainingState, like: dict[Key, Tensor]) -> dict[Key, Tensor]:
    """Those that are there, each on the device of its master in ``like``."""
    names = {key: _name(part, key) for key in like}
    return {
        key: kept.tensors[name].to(like[key].device) for key, name in names.items() if name in kept.tensors
    }


def _name(part: str, key: Key) -> str:
    return f"{part}:{key[0]}:{key[1]}"


def _dot(left: Tensor, right: Tensor) -> float:
    return float((in_double(left) * in_double(right)).sum())
