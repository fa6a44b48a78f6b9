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

from torch import Tensor
from transformers import PreTrainedModel

from cca.amplify.stepper import Stepper, UpdateSettings, named, rows_named
from cca.circuits.circuit import Circuit
from cca.errors import CcaError
from cca.files import Row
from cca.gradients.fisher import Precondition
from cca.gradients.kl_anchor import AddGradient, gradient_of
from cca.gradients.objectives import objective
from cca.gradients.trainable_rows import Key, TrainableRows
from cca.gradients.training_state import Keeper, TrainingState
from cca.models.anatomy.anatomy import Anatomy
from cca.pivots.pivot import Pivot


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

    @staticmethod
    def from_row(row: Row) -> StepRecord:
        return StepRecord(**{**row, "validation": Validation(**row["validation"])})


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
    add_gradient: AddGradient | None = None,
    precondition: Precondition | None = None,
    keeper: Keeper | None = None,
) -> Amplified:
    """Train the circuit's rows. ``validate`` judges the model as it stands, with the rows written into it.

    ``add_gradient`` takes the place of the settings' objective: it adds to the gradients of the rows' masters and
    returns (objective, mean logit gap). ``precondition`` is for gradient descent. With a ``keeper`` a training that
    was stopped goes on from the last step it judged, and ``on_step`` is told those before it again. The model's
    weights are the same afterwards as before. Raises CcaError when there is nothing to train.
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
    training = _Training(trained, settings, precondition)
    tell = on_step or (lambda _: None)
    add = add_gradient or gradient_of(
        model, anatomy, pivots, objective(settings.objective), settings.batch_size,
        checkpointing=settings.gradient_checkpointing,
    )  # fmt: skip
    if keeper and (kept := keeper.load()) is not None:
        training.restore(kept)
        for record in training.history:
            tell(record)
    else:
        tell(training.judged(validate()))
    fault = None
    while not fault and not training.ended:
        fault = training.step(add)
        if not fault and training.to_be_judged:
            with trained.written():
                verdict = validate()
            record = training.judged(verdict)
            if keeper:
                keeper.save(training.state())
            tell(record)
    stopped = f"{fault} at step {training.steps}" if fault else training.ended
    rows = training.best_rows or dict(trained.before)
    coefficient = training.stepper.first_coefficient
    return Amplified(trained, rows, training.best.step, coefficient, tuple(training.history), stopped)


def better(new: Validation, old: Validation) -> bool:
    """Whether a step beats the best so far: inside the budget, then more accurate, then less drift."""
    if not new.in_budget:
        return False
    return (new.accuracy, -new.drift) > (old.accuracy, -old.drift)


class _Training:
    """The steps so far, and what was said of those that were judged."""

    best: StepRecord

    def __init__(
        self, trained: TrainableRows, settings: UpdateSettings, precondition: Precondition | None
    ) -> None:
        self.trained, self.settings = trained, settings
        self.stepper = Stepper(trained, settings, precondition)
        self.steps = 0
        self.objective: float | None = None
        self.logit_gap: float | None = None
        self.history: list[StepRecord] = []
        self.best_rows: dict[Key, Tensor] = {}
        """Of step 0 the model itself keeps a copy."""

    @property
    def ended(self) -> str:
        """Why no more steps are to be taken; empty while there are."""
        stale = sum(record.step > self.best.step for record in self.history)
        if stale >= self.settings.patience:
            return f"no better step in {stale} validations"
        return "all steps taken" if self.steps == self.settings.steps else ""

    @property
    def to_be_judged(self) -> bool:
        return not self.settings.validate_at or self.steps in self.settings.validate_at

    def step(self, add_gradient: AddGradient) -> str | None:
        """Take the next step. Returns what went wrong, if anything did."""
        self.steps += 1
        if self.stepper.last:
            return self.stepper.halve()
        self.objective, self.logit_gap = add_gradient(self.trained)
        if not math.isfinite(self.objective):
            return "the objective was not finite"
        return self.stepper.step()

    def judged(self, validation: Validation) -> StepRecord:
        record = StepRecord(self.steps, self.objective, self.logit_gap, validation)
        self.history.append(record)
        if self.steps == 0 or better(validation, self.best.validation):
            self.best = record
            self.best_rows = self.trained.after() if self.steps else {}
        if validation.in_budget:
            self.stepper.last = {}
        return record

    def state(self) -> TrainingState:
        """All of the above, as it stands after a step was judged."""
        stepper = self.stepper.state()
        facts = {
            **stepper.facts,
            "history": [record.to_row() for record in self.history],
            "best_step": self.best.step,
        }
        return TrainingState({**stepper.tensors, **named("best", self.best_rows)}, facts)

    def restore(self, kept: TrainingState) -> None:
        self.stepper.restore(kept)
        self.history = [StepRecord.from_row(row) for row in kept.facts["history"]]
        self.best = next(r for r in self.history if r.step == kept.facts["best_step"])
        self.best_rows = rows_named("best", kept, self.trained.masters)
        last = self.history[-1]
        self.steps, self.objective, self.logit_gap = last.step, last.objective, last.logit_gap
