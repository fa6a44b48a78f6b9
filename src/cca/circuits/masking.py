"""Desiderata-based component masking (DCM, arXiv 2307.03637) as CCA uses it (paper, section 3.2).

1. One gate m in [0, 1] for every Q, K and V head and every MLP neuron, starting at 1.
2. At the last position of a pivot's prefix each component's activation is multiplied by a gate function of its m.
3. Adam maximises the mean logit(desired) - logit(undesired) minus ``penalty`` times the sum of the gates;
   after each step the gates are clamped to [0, 1].
4. A component whose gate ends above ``threshold`` is in the circuit.

A step costs a forward and backward of one token per pivot (`PivotForward`). Batches hold pivots of similar length and
are visited in a new random order each epoch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from cca.circuits.circuit import Circuit
from cca.circuits.gate_functions import gate_function
from cca.circuits.pivot_forward import PivotForward
from cca.engines.engine import Progress
from cca.errors import CcaError
from cca.models.anatomy import Anatomy
from cca.models.frozen import frozen
from cca.pivots.pivot import Pivot


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


def learn_mask(
    model: PreTrainedModel,
    anatomy: Anatomy,
    pivots: Sequence[Pivot],
    settings: MaskSettings,
    progress: Progress | None = None,
    gaps_of: Callable[[int, Tensor], Tensor] | None = None,
) -> Mask:
    """Train the gates; the model itself is not changed. ``progress`` counts epochs.

    ``gaps_of(batch, factors)`` replaces the one-token forward (tests compare it with re-running whole prompts).
    Raises CcaError when there is no pivot or the objective stops being finite.
    """
    if not pivots:
        raise CcaError("masking: expected at least one pivot, got none")
    forward = PivotForward(model, anatomy, pivots, settings.batch_size)
    gaps_of = gaps_of or forward.gaps
    function = gate_function(settings.gate)
    gates = torch.full(
        (anatomy.size,), settings.initial, dtype=_wide(model), device=model.device
    ).requires_grad_()
    optimiser = torch.optim.Adam([gates], lr=settings.learning_rate)
    schedule = torch.optim.lr_scheduler.StepLR(optimiser, settings.decay_every, settings.decay)
    generator = torch.Generator().manual_seed(settings.seed)
    history: list[float] = []
    with frozen(model):
        for _ in range(settings.epochs):
            total = 0.0
            for batch in torch.randperm(forward.batches, generator=generator).tolist():
                gaps = gaps_of(batch, function.factor(gates))
                loss = settings.penalty * gates.abs().sum() - gaps.mean()
                if not math.isfinite(loss.item()):
                    raise CcaError(
                        f"masking: the objective became {loss.item()}; lower circuit.learning_rate"
                    )
                (gates.grad,) = torch.autograd.grad(loss, gates)
                optimiser.step()
                with torch.no_grad():
                    gates.clamp_(0, 1)
                total += float(gaps.detach().sum())
            schedule.step()
            history.append(total / len(pivots))
            if progress:
                progress(1)
    return Mask(gates.detach().cpu(), tuple(history))


def _wide(model: PreTrainedModel) -> torch.dtype:
    """Gates train in float32 whatever the model's dtype (float64 for a float64 model)."""
    return torch.promote_types(model.dtype, torch.float32)
