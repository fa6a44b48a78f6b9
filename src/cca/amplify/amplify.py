"""Amplify (paper, section 3.3): gradient steps on the circuit's rows alone, judged on validation data as they go.

* Gradient descent takes W -= coefficient * gradient, full batch. With ``predicted_change`` c the coefficient is
  c / |gradient|^2 at the first step, so that this step is predicted to lower the mean objective by c, whatever the
  model; the coefficient is then kept.
* Whitening turns the gradients g of a step into the directions d along which it goes; the coefficient is c / (g . d).
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

from cca.amplify.settings import AmplifyConfig
from cca.amplify.stepper import Stepper, named, rows_named
from cca.circuits.circuit import Circuit
from cca.errors import CcaError
from cca.files import Row
from cca.gradients.fisher import Whitening, measure_whitening
from cca.gradients.pivot_gradient import AddGradient, KLAnchor, Trained, add_pivot_gradient, make_objective
from cca.gradients.sampled_likelihood import MOST_TEXTS, Text
from cca.gradients.trainable_rows import Key, TrainableRows
from cca.gradients.training_state import TrainingFile, TrainingState
from cca.models.anatomy.anatomy import Anatomy
from cca.models.memory import halving
from cca.pivots.pivot import Pivot


@dataclass(frozen=True)
class Validation:
    """The validation of one step: ``accuracy`` and ``retention`` in [0, 1], ``drift`` in nats per token.

    ``drift`` and ``in_budget`` are None where nothing measures them: a run without retention sets.
    """

    accuracy: float
    drift: float | None
    retention: dict[str, float]
    in_budget: bool | None
    cut_off: float | None = None
    """Share of the answers that the token limit cut off."""


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
    """The reason why no more steps were taken."""


def amplify(
    model: PreTrainedModel,
    anatomy: Anatomy,
    circuit: Circuit,
    pivots: Sequence[Pivot],
    settings: AmplifyConfig,
    validate: Callable[[], Validation],
    *,
    texts: Sequence[Text] = (),
    seed: int = 0,
    on_step: Callable[[StepRecord], None] | None = None,
    state: TrainingFile | None = None,
    note: Callable[[str], None] | None = None,
    what: str = "amplify",
) -> Amplified:
    """Train the circuit's rows. ``validate`` judges the model as it is, with the rows written into it.

    texts: (prompt, solution) tokens of other skills, for whitening and anchor. seed: for the tokens that whitening
    samples. With ``state`` a training that was stopped continues from the last step it judged, and ``on_step`` is
    called for the earlier ones again. With ``note`` running out of memory halves the batch (``note``
    reports it, ``what`` names the work); without it the error is raised. The model's weights are the same afterwards as
    before. Raises CcaError when there is nothing to train, and where the settings need texts and there are none.
    """
    if not pivots or not len(circuit):
        raise CcaError(
            f"amplify: expected pivots and a circuit, got {len(pivots)} pivots and {len(circuit)} components"
        )
    rows = anatomy.rows(circuit.components, settings.rows)
    if not rows:
        raise CcaError(f"amplify: expected components that own rows in mode {settings.rows}, got none that do")

    def whiten(batch_size: int) -> Whitening | None:
        possible = settings.optimiser == "gradient-descent" and len(texts) > 0
        if settings.whitening == "none" or (settings.whitening == "auto" and not possible):
            return None
        generator = torch.Generator().manual_seed(seed)
        return measure_whitening(model, rows, texts, settings.damping, generator, batch_size)

    def train(batch_size: int) -> Amplified:
        add_gradient = make_gradient(model, anatomy, pivots, settings, texts, batch_size)
        training = _Training(TrainableRows(model, rows), settings, whitening)
        # With another batch size gradients differ by rounding: its states are those of another training.
        return training.run(add_gradient, validate, on_step, state.part(batch_size) if state else None)

    if note is None:
        whitening = whiten(MOST_TEXTS)
        return train(settings.batch_size)
    whitening = halving(f"{what}: Fisher information", MOST_TEXTS, whiten, note)
    # From the first step again when memory ran out, as in a run that never had the larger batch.
    return halving(what, settings.batch_size, train, note)


def make_gradient(
    model: PreTrainedModel,
    anatomy: Anatomy,
    pivots: Sequence[Pivot],
    settings: AmplifyConfig,
    texts: Sequence[Text],
    batch_size: int,
) -> AddGradient:
    """The gradient of objective and anchor that ``settings`` ask for; make it while the model is untouched.

    batch_size: pivots per pass. Raises CcaError for an anchor without texts.
    """
    objective = make_objective(settings.objective, model, anatomy, pivots, settings.beta)
    anchor = KLAnchor(model, texts, settings.anchor) if settings.anchor else None

    def add_gradient(trained: Trained) -> tuple[float, float]:
        loss, gap = add_pivot_gradient(
            model, anatomy, trained, pivots, objective, batch_size,
            checkpointing=settings.gradient_checkpointing,
        )  # fmt: skip
        return loss + (anchor.add_gradient(trained) if anchor else 0.0), gap

    return add_gradient


def better(new: Validation, old: Validation) -> bool:
    """True when a step beats the best so far: not outside the budget, then more accurate, then less drift."""
    if new.in_budget is False:
        return False
    return (new.accuracy, -(new.drift or 0.0)) > (old.accuracy, -(old.drift or 0.0))


class _Training:
    """The steps so far, and the validations of those that were judged."""

    best: StepRecord

    def __init__(self, trained: TrainableRows, settings: AmplifyConfig, whitening: Whitening | None) -> None:
        self.trained, self.settings = trained, settings
        self.stepper = Stepper(trained, settings, whitening)
        self.steps = 0
        self.objective: float | None = None
        self.logit_gap: float | None = None
        self.history: list[StepRecord] = []
        self.best_rows: dict[Key, Tensor] = {}
        """Those of the best step; empty for step 0, whose rows are the model's own."""

    def run(
        self,
        add_gradient: AddGradient,
        validate: Callable[[], Validation],
        on_step: Callable[[StepRecord], None] | None,
        state: TrainingFile | None,
    ) -> Amplified:
        """Take and judge steps to the end, from those that ``state`` keeps."""
        report = on_step or (lambda _: None)
        if state and (kept := state.load()) is not None:
            self.restore(kept)
            for record in self.history:
                report(record)
        else:
            report(self.judged(validate()))
        fault = None
        while not fault and not self.ended:
            fault = self.step(add_gradient)
            if not fault and self.to_be_judged:
                with self.trained.written():
                    validation = validate()
                record = self.judged(validation)
                if state:
                    state.save(self.state())
                report(record)
        stopped = f"{fault} at step {self.steps}" if fault else self.ended
        rows = self.best_rows or dict(self.trained.before)
        coefficient = self.stepper.first_coefficient
        return Amplified(self.trained, rows, self.best.step, coefficient, tuple(self.history), stopped)

    @property
    def ended(self) -> str:
        """The reason why no more steps are to be taken; empty while there are."""
        stale = sum(record.step > self.best.step for record in self.history)
        if stale >= self.settings.patience:
            return f"no better step in {stale} validations"
        return "all steps taken" if self.steps == self.settings.steps else ""

    @property
    def to_be_judged(self) -> bool:
        return not self.settings.validate_at or self.steps in self.settings.validate_at

    def step(self, add_gradient: AddGradient) -> str | None:
        """Take the next step. Returns the fault when it cannot be taken."""
        self.steps += 1
        if self.stepper.last:
            return self.stepper.halve()
        self.objective, self.logit_gap = add_gradient(self.trained)
        if not math.isfinite(self.objective):
            return "the objective was not finite"
        return self.stepper.step()

    def judged(self, validation: Validation) -> StepRecord:
        """The record of the last step, which is added to the history."""
        record = StepRecord(self.steps, self.objective, self.logit_gap, validation)
        self.history.append(record)
        if self.steps == 0 or better(validation, self.best.validation):
            self.best = record
            self.best_rows = self.trained.after() if self.steps else {}
        if validation.in_budget is not False:
            self.stepper.last = {}
        return record

    def state(self) -> TrainingState:
        """Everything that training changes, as it is after a step was judged."""
        stepper = self.stepper.state()
        facts = {**stepper.facts, "history": [record.to_row() for record in self.history], "best_step": self.best.step}
        return TrainingState({**stepper.tensors, **named("best", self.best_rows)}, facts)

    def restore(self, kept: TrainingState) -> None:
        self.stepper.restore(kept)
        self.history = [StepRecord.from_row(row) for row in kept.facts["history"]]
        self.best = next(r for r in self.history if r.step == kept.facts["best_step"])
        self.best_rows = rows_named("best", kept, self.trained.masters)
        last = self.history[-1]
        self.steps, self.objective, self.logit_gap = last.step, last.objective, last.logit_gap
