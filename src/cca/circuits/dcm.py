"""How a mask trains, whatever its relaxation and penalty: Adam minimises penalty * (expected size) - mean logit gap,
over batches of pivots in a new order each epoch.

All that changes while it trains is one state (`_Training.state`), kept after every epoch: a training that was stopped
goes on from there to the same gates, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from cca.circuits.circuit import Circuit
from cca.circuits.gate_functions import gate_function
from cca.circuits.relaxations import relaxation
from cca.circuits.target_size import FixedPenalty, Penalty
from cca.engines.engine import Progress
from cca.errors import CcaError
from cca.gradients.pivot_forward import PivotForward
from cca.gradients.training_state import Keeper, TrainingState, optimiser_tensors, restore_optimiser
from cca.models.anatomy.anatomy import Anatomy
from cca.models.forward.frozen import frozen

Gaps = Callable[[int, Tensor], Tensor]
"""(batch, factors of all components) -> the logit gaps of the batch's pivots."""


@dataclass(frozen=True)
class MaskSettings:
    """The defaults are the published ones."""

    gate: str = "double"
    learning_rate: float = 5e-3
    decay_every: int = 5
    decay: float = 0.9
    epochs: int = 50
    batch_size: int = 8
    penalty: float = 0.01
    initial: float = 1.0
    threshold: float = 0.5
    seed: int = 0


@dataclass(frozen=True)
class Mask:
    """``gates`` is (anatomy.size,) in the anatomy's flat order; ``gaps`` the mean logit gap of each epoch."""

    gates: Tensor
    gaps: tuple[float, ...]

    def circuit(self, anatomy: Anatomy, threshold: float) -> Circuit:
        chosen = (self.gates > threshold).nonzero().flatten().tolist()
        scores = {anatomy.component(index): float(self.gates[index]) for index in chosen}
        return Circuit.of(scores, "dcm", scores)


def train_mask(
    forward: PivotForward,
    settings: MaskSettings,
    relaxation_name: str = "clamp",
    penalty: Penalty | None = None,
    progress: Progress | None = None,
    gaps_of: Gaps | None = None,
    keeper: Keeper | None = None,
) -> Mask:
    """Train the gates; the model itself is not changed. ``progress`` counts epochs.

    ``penalty`` is by default fixed at ``settings.penalty``; ``settings.batch_size`` is the forward's and not read.
    Raises CcaError when the objective stops being finite.
    """
    training = _Training(forward, settings, relaxation_name, penalty or FixedPenalty(settings.penalty))
    if keeper and (kept := keeper.load()) is not None:
        training.restore(kept)
        if progress:
            progress(len(training.gaps))
    with frozen(forward.model):
        while len(training.gaps) < settings.epochs:
            training.epoch(gaps_of or forward.gaps)
            if keeper:
                keeper.save(training.state())
            if progress:
                progress(1)
    return Mask(training.relaxed.final().cpu(), tuple(training.gaps))


class _Training:
    def __init__(
        self, forward: PivotForward, settings: MaskSettings, relaxation_name: str, penalty: Penalty
    ) -> None:
        self.forward, self.penalty = forward, penalty
        # Gates train in float32 whatever the model's dtype (float64 for a float64 model).
        dtype = torch.promote_types(forward.model.dtype, torch.float32)
        device = forward.model.device
        self.relaxed = relaxation(relaxation_name, forward.anatomy.size, settings.initial, dtype, device)
        self.function = gate_function(settings.gate)
        self.adam = torch.optim.Adam([self.relaxed.parameters], lr=settings.learning_rate)
        self.schedule = torch.optim.lr_scheduler.StepLR(self.adam, settings.decay_every, settings.decay)
        self.order = torch.Generator().manual_seed(settings.seed)
        self.noise = torch.Generator().manual_seed(settings.seed + 1)
        self.steps = settings.epochs * forward.batches
        self.gaps: list[float] = []
        """Of each epoch so far."""

    def epoch(self, gaps_of: Gaps) -> None:
        relaxed, total = self.relaxed, 0.0
        step = len(self.gaps) * self.forward.batches
        for batch in torch.randperm(self.forward.batches, generator=self.order).tolist():
            done = step / max(1, self.steps - 1)
            gaps = gaps_of(batch, self.function.factor(relaxed.gates(done, self.noise)))
            loss = self.penalty.value * relaxed.sizes(done).sum() - gaps.mean()
            if not torch.isfinite(loss):
                raise CcaError(f"masking: the objective became {loss.item()}; lower circuit.learning_rate")
            (relaxed.parameters.grad,) = torch.autograd.grad(loss, relaxed.parameters)
            self.adam.step()
            relaxed.after_step(done)
            self.penalty.update(float(relaxed.sizes(done).detach().sum()))
            total += float(gaps.detach().sum())
            step += 1
        self.schedule.step()
        self.gaps.append(total / len(self.forward.last))

    def state(self) -> TrainingState:
        """Parameters, optimiser, schedule, penalty and generators as they stand after an epoch."""
        adam = optimiser_tensors(self.adam, self.relaxed.parameters)
        tensors = {
            "parameters": self.relaxed.parameters.detach().cpu(),
            **{f"adam.{name}": value for name, value in adam.items()},
            "order": self.order.get_state(),
            "noise": self.noise.get_state(),
        }
        facts = {
            "learning_rate": self.adam.param_groups[0]["lr"],
            "penalty": self.penalty.state,
            "gaps": self.gaps,
        }
        return TrainingState(tensors, facts)

    def restore(self, kept: TrainingState) -> None:
        parameters, tensors = self.relaxed.parameters, kept.tensors
        with torch.no_grad():
            parameters.copy_(tensors["parameters"])
        adam = {name: value for name, value in tensors.items() if name.startswith("adam.")}
        restore_optimiser(
            self.adam, parameters, {name.removeprefix("adam."): value for name, value in adam.items()}
        )
        rate, self.gaps = kept.facts["learning_rate"], list(kept.facts["gaps"])
        self.adam.param_groups[0]["lr"] = rate
        counts = {"last_epoch": len(self.gaps), "_step_count": len(self.gaps) + 1, "_last_lr": [rate]}
        self.schedule.load_state_dict({**self.schedule.state_dict(), **counts})
        self.penalty.state = tuple(kept.facts["penalty"])
        self.order.set_state(tensors["order"])
        self.noise.set_state(tensors["noise"])
