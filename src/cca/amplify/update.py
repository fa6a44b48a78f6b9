"""Amplify (paper, section 3.3): gradient steps on the circuit's rows alone, judged on validation data as they go.

* Gradient descent takes W -= coefficient * gradient, full batch. With ``predicted_change`` c the coefficient is
  c / |gradient|^2 at the first step, so that step is predicted to lower the mean objective by c, whatever the model;
  the coefficient is then kept.
* A `Precondition` turns the gradients g of a step into the directions d it goes along; c is then held against g . d.
* Step 0, the untouched model, competes with every validated step. The best accuracy whose retention stays inside the
  budget wins; of equals, the one that drifted least.
* A step of predicted size that leaves the budget is halved until it is inside again, and so are those after it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from cca import ranks
from cca.amplify.objective import objective
from cca.amplify.pivot_gradient import add_pivot_gradient
from cca.amplify.preconditioner import Precondition
from cca.circuits.circuit import Circuit
from cca.errors import CcaError
from cca.files import Row
from cca.models.anatomy import Anatomy
from cca.models.trainable_rows import Key, TrainableRows
from cca.pivots.pivot import Pivot


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


@dataclass(frozen=True)
class Validation:
    """What the validation data says of one step. ``accuracy`` in [0, 1]; ``drift`` in nats."""

    accuracy: float
    drift: float
    retention: dict[str, float]
    in_budget: bool


@dataclass(frozen=True)
class StepRecord:
    step: int
    objective: float | None
    logit_gap: float | None
    validation: Validation

    def to_row(self) -> Row:
        return asdict(self)


@dataclass(frozen=True)
class Amplified:
    """``rows`` hold the best step's rows in the model's dtype, keyed like `TrainableRows.masters`."""

    trained: TrainableRows
    rows: dict[Key, Tensor]
    best_step: int
    coefficient: float | None
    history: tuple[StepRecord, ...]
    stopped: str
    """Why no more steps were taken."""


def amplify(
    model: PreTrainedModel,
    anatomy: Anatomy,
    circuit: Circuit,
    pivots: Sequence[Pivot],
    settings: UpdateSettings,
    validate: Callable[[], Validation],
    on_step: Callable[[StepRecord], None] | None = None,
    add_gradient: Callable[[TrainableRows], tuple[float, float]] | None = None,
    precondition: Precondition | None = None,
) -> Amplified:
    """Train the circuit's rows. ``validate`` judges the model as it stands, with the rows written into it.

    ``add_gradient`` takes the place of the settings' objective: it adds to the gradients of the rows' masters and
    returns (objective, mean logit gap). ``precondition`` is for gradient descent. The model's weights are the same
    afterwards as before. Raises CcaError when there is nothing to train.
    """
    if not pivots or not len(circuit):
        raise CcaError(
            f"amplify: expected pivots and a circuit, got {len(pivots)} pivots and {len(circuit)} components"
        )
    trained = TrainableRows(model, anatomy.rows(circuit.components, settings.rows))
    if not trained.masters:
        raise CcaError(
            f"amplify: expected components that own rows in mode {settings.rows}, got none that do"
        )
    stepper = _Stepper(trained, settings, precondition)
    loss_of = None if add_gradient else objective(settings.objective)
    best = StepRecord(0, None, None, validate())
    best_rows: dict[Key, Tensor] | None = None  # of step 0 the model itself keeps a copy
    history = [best]
    if on_step:
        on_step(best)
    loss = gap = math.nan
    stale, stopped = 0, "all steps taken"
    for step in range(1, settings.steps + 1):
        if stepper.may_halve and not history[-1].validation.in_budget:
            fault = stepper.halve()
        else:
            stepper.taken = {}
            if loss_of is None:
                assert add_gradient is not None
                loss, gap = add_gradient(trained)
            else:
                loss, gap = add_pivot_gradient(
                    model, anatomy, trained, pivots, loss_of, settings.batch_size,
                    checkpointing=settings.gradient_checkpointing,
                )  # fmt: skip
            fault = _fault(loss, stepper)
        if fault:
            stopped = f"{fault} at step {step}"
            break
        if settings.validate_at and step not in settings.validate_at:
            continue
        with trained.written():
            record = StepRecord(step, loss, gap, validate())
        history.append(record)
        if on_step:
            on_step(record)
        if better(record.validation, best.validation):
            best, best_rows, stale = record, trained.after(), 0
        else:
            stale += 1
        if stale >= settings.patience:
            stopped = f"no better step in {stale} validations"
            break
    rows = dict(trained.before) if best_rows is None else best_rows
    return Amplified(trained, rows, best.step, stepper.first_coefficient, tuple(history), stopped)


def _fault(loss: float, stepper: _Stepper) -> str | None:
    """Take the step; what went wrong, if anything did."""
    if not math.isfinite(loss):
        return "the objective was not finite"
    return stepper.step()


def better(new: Validation, old: Validation) -> bool:
    """Whether a step beats the best so far: inside the budget, then more accurate, then less drift."""
    if not new.in_budget:
        return False
    return (new.accuracy, -new.drift) > (old.accuracy, -old.drift)


class _Stepper:
    """Gradient descent or Adam on the masters, with the step size as `UpdateSettings` has it."""

    def __init__(
        self, trained: TrainableRows, settings: UpdateSettings, precondition: Precondition | None
    ) -> None:
        self.trained = trained
        self.leaves = trained.masters
        self.precondition = precondition
        self.coefficient = settings.coefficient
        self.first_coefficient = settings.coefficient
        self.predicted_change = settings.predicted_change
        self.sized_here = settings.coefficient is None
        self.every_step_judged = not settings.validate_at
        self.taken: dict[Key, Tensor] = {}
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
            self.taken = dict(directions)
            with torch.no_grad():
                for key, direction in directions.items():
                    self.leaves[key].sub_(direction, alpha=self.coefficient)
        for leaf in self.leaves.values():
            leaf.grad = None
            ranks.same(leaf.detach())
        return None if self.trained.finite() else "the rows were not finite"

    @property
    def may_halve(self) -> bool:
        """Whether the last step was of predicted size, so that its size is this run's to change."""
        return bool(self.taken) and self.sized_here and self.every_step_judged

    def halve(self) -> str | None:
        """Go back half of the last step, and take all further ones at half their size."""
        assert self.coefficient is not None
        self.coefficient /= 2
        with torch.no_grad():
            for key, direction in self.taken.items():
                self.leaves[key].add_(direction, alpha=self.coefficient)
                ranks.same(self.leaves[key].detach())
        return None if self.trained.finite() else "the rows were not finite"


def _dot(left: Tensor, right: Tensor) -> float:
    return float((left.double() * right.double()).sum())
