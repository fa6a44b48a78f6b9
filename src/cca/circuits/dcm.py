"""Desiderata-based component masking (DCM, arXiv 2307.03637) as CCA uses it (paper, section 3.2).

1. One gate m in [0, 1] for every Q, K and V head and every MLP neuron, starting at 1.
2. At the last position of a pivot's prefix each component's activation is multiplied by a gate function of its m.
3. Adam maximises the mean logit(desired) - logit(undesired) minus ``penalty`` times the sum of the gates, over batches
   of pivots of similar length in a new random order each epoch; after each step the gates are clamped to [0, 1].
4. A component whose gate ends above ``threshold`` is in the circuit.

A step costs a forward and backward pass of one token per pivot (`PivotForward`). `RELAXATIONS` has others than the
clamp; `Penalty` can also aim at a size. The whole training state is kept after every epoch: a training that was stopped
continues to the same gates, to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from cca.circuits.circuit import Circuit
from cca.circuits.settings import CircuitConfig
from cca.engines.engine import Progress
from cca.errors import CcaError
from cca.gradients.pivot_forward import PivotForward
from cca.gradients.training_state import TrainingFile, TrainingState, optimiser_tensors, restore_optimiser
from cca.models.anatomy.anatomy import Anatomy
from cca.models.forward.gates import frozen_weights
from cca.models.precision import wide_dtype

Gaps = Callable[[int, Tensor], Tensor]
"""(batch number, factors (anatomy.size,)) -> the logit gaps (B,) of the batch's pivots."""

GATE_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "double": lambda m: 2 * m,  # the paper's: 0 ablates, 1 doubles
    "amplify": lambda m: 1 + m,  # 0 leaves the activation alone, 1 doubles it
    "ablate": lambda m: m,  # 0 ablates, 1 leaves the activation alone
}
"""From gates m in [0, 1] to the factors of activations, of the same shape. The penalty pulls every gate towards 0."""


class Relaxation:
    """The paper's relaxation of the yes or no for every component: the trained parameter is the gate itself.

    Subclasses give gates that a gradient can move in other ways; a new one is one class and one line of `RELAXATIONS`.
    ``progress`` runs from 0 to 1 over the training.
    """

    def __init__(self, size: int, initial: float, dtype: torch.dtype, device: torch.device | str = "cpu") -> None:
        self.parameters = torch.full((size,), self.start(initial), dtype=dtype, device=device).requires_grad_()
        """(size,), the leaf that trains."""

    def start(self, initial: float) -> float:
        """The parameter of a gate that starts at ``initial``."""
        return initial

    def gates(self, progress: float, generator: torch.Generator, /) -> Tensor:
        """Gates in [0, 1] for one step, (size,)."""
        del progress, generator
        return self.parameters

    def sizes(self, progress: float, /) -> Tensor:
        """The expected contribution of each component to the circuit's size, in [0, 1], differentiable, (size,).

        |m| as published: at 0 it has no gradient, so only its own gap keeps a closed gate down.
        """
        del progress
        return self.parameters.abs()

    @torch.no_grad()
    def after_step(self, progress: float, /) -> None:
        del progress
        self.parameters.clamp_(0, 1)

    def final(self) -> Tensor:
        """Gates in [0, 1] without noise, (size,)."""
        return self.parameters.detach()


def _logit(p: float) -> float:
    return math.log(p / (1 - p))


class HardConcrete(Relaxation):
    """L0 (arXiv 1712.01312): gates are binary concrete draws of temperature 2/3, stretched to (-0.1, 1.1) and clamped;
    in the end the stretched sigmoid without noise."""

    TEMPERATURE, LOW, HIGH, EDGE = 2 / 3, -0.1, 1.1, 1e-3

    def start(self, initial: float) -> float:
        return _logit((min(max(initial, self.EDGE), 1 - self.EDGE) - self.LOW) / (self.HIGH - self.LOW))

    def gates(self, _: float, generator: torch.Generator, /) -> Tensor:
        uniform = torch.rand(self.parameters.shape, generator=generator, dtype=torch.float64)
        noise = uniform.clamp(1e-6, 1 - 1e-6).logit().to(self.parameters)
        return self._stretched(((noise + self.parameters) / self.TEMPERATURE).sigmoid())

    def sizes(self, _: float, /) -> Tensor:
        """The probability of a gate that is not 0."""
        return (self.parameters - self.TEMPERATURE * math.log(-self.LOW / self.HIGH)).sigmoid()

    def after_step(self, _: float, /) -> None:
        pass

    def final(self) -> Tensor:
        return self._stretched(self.parameters.detach().sigmoid())

    def _stretched(self, x: Tensor) -> Tensor:
        return (x * (self.HIGH - self.LOW) + self.LOW).clamp(0, 1)


class Annealed(Relaxation):
    """A sigmoid whose temperature falls from 1 to ``LAST``, geometrically, so that gates end as good as binary (as in
    DAIS, arXiv 2011.02166).

    Parameters stay within ``REACH`` temperatures of 0: further out a sigmoid has no gradient to come back by.
    """

    LAST, REACH = 0.1, 6.0

    def start(self, initial: float) -> float:
        return _logit(min(max(initial, 0.05), 0.95))  # further out a sigmoid hardly moves

    def gates(self, progress: float, _: torch.Generator, /) -> Tensor:
        return self.sizes(progress)

    def sizes(self, progress: float, /) -> Tensor:
        return (self.parameters / self.LAST**progress).sigmoid()

    @torch.no_grad()
    def after_step(self, progress: float, /) -> None:
        reach = self.REACH * self.LAST**progress
        self.parameters.clamp_(-reach, reach)

    def final(self) -> Tensor:
        return (self.parameters.detach() / self.LAST).sigmoid()


RELAXATIONS = {"clamp": Relaxation, "hard-concrete": HardConcrete, "annealed": Annealed}


class Penalty:
    """The coefficient of the mask's size: fixed, or adapted by dual ascent until the size is ``target``.

    With a target the penalty is the multiplier of "the expected size is at most the target": it rises while the circuit
    is too large and falls while it is too small. The excess, in logarithms of how many times too large the circuit is,
    drives the penalty's logarithm, so one rate serves targets of ten and of ten thousand and the penalty stays above 0.
    The sum of excesses (``RATE``) finds the level; the last one (``DAMPING``) keeps gates, which Adam moves with
    momentum, from swinging about it.
    """

    RATE, DAMPING, LEAST = 0.02, 1.0, 1e-6

    def __init__(self, start: float, target: int | None = None) -> None:
        self.start, self.target = start, target
        self.state: tuple[float, ...] = () if target is None else (math.log(max(start, self.LEAST)), 0.0)
        """The logarithm of the level and the last excess: all that `update` changes."""

    @property
    def value(self) -> float:
        if not self.state:
            return self.start
        level, excess = self.state
        return math.exp(level + self.DAMPING * excess)

    def update(self, size: float) -> None:
        """Adapt to the expected number of components in the circuit after a step."""
        if self.target is None:
            return
        excess = max(-1.0, min(1.0, math.log(max(size, 0.1) / self.target)))
        self.state = (self.state[0] + self.RATE * excess, excess)


@dataclass(frozen=True)
class Mask:
    """``gates`` is (anatomy.size,) in the anatomy's flat order; ``gaps`` is the mean logit gap of each epoch."""

    gates: Tensor
    gaps: tuple[float, ...]

    def circuit(self, anatomy: Anatomy, threshold: float) -> Circuit:
        """The components whose gate is above ``threshold``, scored by their gates."""
        chosen = (self.gates > threshold).nonzero().flatten().tolist()
        scores = {anatomy.component(index): float(self.gates[index]) for index in chosen}
        return Circuit.of(scores, "dcm", scores)


def learn_mask(
    forward: PivotForward,
    settings: CircuitConfig,
    seed: int = 0,
    target: int | None = None,
    progress: Progress | None = None,
    gaps_of: Gaps | None = None,
    state: TrainingFile | None = None,
) -> Mask:
    """Train the gates of a `PivotForward`'s model, which is not changed itself (paper, equation of section 3.2).

    target: components that the penalty aims at; None keeps it at ``settings.penalty``. ``progress`` counts epochs.
    ``gaps_of`` replaces the one-token forward (tests compare it with re-running whole prompts). ``state`` keeps every
    epoch, so that a training that was stopped continues from its last one. ``settings.batch_size`` is not read: the
    batches are the forward's. Raises CcaError when the objective stops being finite.
    """
    training = _Training(forward, settings, seed, target)
    if state and (kept := state.load()) is not None:
        training.restore(kept)
        if progress:
            progress(len(training.gaps))
    with frozen_weights(forward.model):
        while len(training.gaps) < settings.epochs:
            training.epoch(gaps_of or forward.gaps)
            if state:
                state.save(training.state())
            if progress:
                progress(1)
    return Mask(training.relaxed.final().cpu(), tuple(training.gaps))


class _Training:
    def __init__(self, forward: PivotForward, settings: CircuitConfig, seed: int, target: int | None) -> None:
        self.forward = forward
        # Gates train in float32 whatever the model's dtype (float64 for a float64 model).
        dtype, device = wide_dtype(forward.model.dtype), forward.model.device
        self.relaxed = RELAXATIONS[settings.relaxation](forward.anatomy.size, settings.initial, dtype, device)
        self.factors = GATE_FUNCTIONS[settings.gate]
        self.penalty = Penalty(settings.penalty, target)
        self.adam = torch.optim.Adam([self.relaxed.parameters], lr=settings.learning_rate)
        self.schedule = torch.optim.lr_scheduler.StepLR(self.adam, settings.decay_every, settings.decay)
        self.order = torch.Generator().manual_seed(seed)
        self.noise = torch.Generator().manual_seed(seed + 1)
        self.steps = settings.epochs * forward.batches
        self.gaps: list[float] = []
        """The mean logit gap of each epoch so far."""

    def epoch(self, gaps_of: Gaps) -> None:
        relaxed, total = self.relaxed, 0.0
        step = len(self.gaps) * self.forward.batches
        for batch in torch.randperm(self.forward.batches, generator=self.order).tolist():
            done = step / max(1, self.steps - 1)
            gaps = gaps_of(batch, self.factors(relaxed.gates(done, self.noise)))
            loss = self.penalty.value * relaxed.sizes(done).sum() - gaps.mean()
            if not torch.isfinite(loss):
                raise CcaError(f"dcm: expected a finite objective, got {loss.item()}; lower circuit.learning_rate")
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
        facts = {"learning_rate": self.adam.param_groups[0]["lr"], "penalty": self.penalty.state, "gaps": self.gaps}
        return TrainingState(tensors, facts)

    def restore(self, kept: TrainingState) -> None:
        parameters, tensors = self.relaxed.parameters, kept.tensors
        with torch.no_grad():
            parameters.copy_(tensors["parameters"])
        adam = {name: value for name, value in tensors.items() if name.startswith("adam.")}
        restore_optimiser(self.adam, parameters, {name.removeprefix("adam."): value for name, value in adam.items()})
        rate, self.gaps = kept.facts["learning_rate"], list(kept.facts["gaps"])
        self.adam.param_groups[0]["lr"] = rate
        counts = {"last_epoch": len(self.gaps), "_step_count": len(self.gaps) + 1, "_last_lr": [rate]}
        self.schedule.load_state_dict({**self.schedule.state_dict(), **counts})
        self.penalty.state = tuple(kept.facts["penalty"])
        self.order.set_state(tensors["order"])
        self.noise.set_state(tensors["noise"])
