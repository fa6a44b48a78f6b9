"""The steps: gradient descent or Adam on the rows' masters, along plain or whitened gradients."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cca import distributed
from cca.amplify.settings import AmplifyConfig
from cca.errors import CcaError
from cca.gradients.fisher import Whitening
from cca.gradients.trainable_rows import Key, TrainableRows
from cca.gradients.training_state import TrainingState, optimiser_tensors, restore_optimiser
from cca.models.precision import in_double


class Stepper:
    """Takes the steps of `AmplifyConfig` on ``trained``. Raises CcaError for settings that do not go together."""

    def __init__(self, trained: TrainableRows, settings: AmplifyConfig, whitening: Whitening | None) -> None:
        self.trained = trained
        self.leaves = trained.masters
        self.whitening = whitening
        self.coefficient = settings.coefficient
        self.first_coefficient = settings.coefficient
        self.predicted_change = settings.predicted_change
        self.may_halve = settings.coefficient is None and not settings.validate_at
        """True when step sizes may be halved: the size is automatic and every step is validated."""
        self.last: dict[Key, Tensor] = {}
        """The directions of the last step, while it may still be halved."""
        self.adam: torch.optim.Adam | None = None
        if settings.optimiser == "adam":
            if settings.coefficient is None:
                raise CcaError("amplify: expected a coefficient (the learning rate) with optimiser adam, got none")
            if whitening is not None:
                raise CcaError("amplify.whitening: expected optimiser gradient-descent, got adam")
            self.adam = torch.optim.Adam(self.leaves.values(), lr=settings.coefficient)
        elif self.coefficient is None and self.predicted_change is None:
            raise CcaError("amplify: expected predicted_change or coefficient, got neither")

    def step(self) -> str | None:
        """Take one step (paper, section 3.3) and clear the gradients.

        Returns the reason when the step cannot be taken; the masters are then of no more use.
        """
        gradients = {key: leaf.grad for key, leaf in self.leaves.items() if leaf.grad is not None}
        directions = self.whitening(gradients) if self.whitening else gradients
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
            if self.may_halve:
                self.last = dict(directions)
        for leaf in self.leaves.values():
            leaf.grad = None
            distributed.broadcast_(leaf.detach())
        return None if self.trained.finite() else "the rows were not finite"

    def halve(self) -> str | None:
        """Take half of the last step back, and all further ones at half their size; returns as `step`."""
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
        return TrainingState(tensors, {"coefficient": self.coefficient, "first_coefficient": self.first_coefficient})

    def restore(self, kept: TrainingState) -> None:
        self.trained.load(rows_named("master", kept, self.leaves))
        self.last = rows_named("last", kept, self.leaves)
        if self.adam:
            for key, leaf in self.leaves.items():
                parts = ("step", "exp_avg", "exp_avg_sq")
                restore_optimiser(self.adam, leaf, {part: kept.tensors[_name(f"adam.{part}", key)] for part in parts})
        self.coefficient = kept.facts["coefficient"]
        self.first_coefficient = kept.facts["first_coefficient"]


def named(part: str, rows: dict[Key, Tensor]) -> dict[str, Tensor]:
    """``rows`` under names that a `TrainingState` can hold; `rows_named` reads them back."""
    return {_name(part, key): value.detach().cpu() for key, value in rows.items()}


def rows_named(part: str, kept: TrainingState, like: dict[Key, Tensor]) -> dict[Key, Tensor]:
    """The kept rows of ``part``, each on the device of its master in ``like``."""
    names = {key: _name(part, key) for key in like}
    return {key: kept.tensors[name].to(like[key].device) for key, name in names.items() if name in kept.tensors}


def _name(part: str, key: Key) -> str:
    return f"{part}:{key[0]}:{key[1]}"


def _dot(left: Tensor, right: Tensor) -> float:
    return float((in_double(left) * in_double(right)).sum())
