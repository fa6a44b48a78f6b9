"""DCM with any relaxation and any penalty: `masking` is the paper's case of it, clamp with a fixed penalty.

Each step minimises penalty * (expected size) - mean logit gap by Adam, over batches of pivots in a new order each
epoch.
"""

from __future__ import annotations

import torch

from cca.circuits.gate_functions import gate_function
from cca.circuits.masking import Mask, MaskSettings
from cca.circuits.pivot_forward import PivotForward
from cca.circuits.relaxations import relaxation
from cca.circuits.target_size import Penalty
from cca.engines.engine import Progress
from cca.errors import CcaError


def learn_relaxed_mask(
    forward: PivotForward,
    settings: MaskSettings,
    relaxation_name: str,
    penalty: Penalty,
    progress: Progress | None = None,
) -> Mask:
    """Train the gates; the model itself is not changed. ``settings.penalty`` and ``batch_size`` are not read.

    Raises CcaError when the objective stops being finite.
    """
    anatomy, device = forward.anatomy, forward.model.device
    dtype = torch.promote_types(forward.model.dtype, torch.float32)
    relaxed = relaxation(relaxation_name, anatomy.size, settings.initial, dtype, device)
    function = gate_function(settings.gate)
    optimiser = torch.optim.Adam([relaxed.parameters], lr=settings.learning_rate)
    schedule = torch.optim.lr_scheduler.StepLR(optimiser, settings.decay_every, settings.decay)
    order = torch.Generator().manual_seed(settings.seed)
    noise = torch.Generator().manual_seed(settings.seed + 1)
    steps, step, history = settings.epochs * forward.batches, 0, []
    for _ in range(settings.epochs):
        total = 0.0
        for batch in torch.randperm(forward.batches, generator=order).tolist():
            done = step / max(1, steps - 1)
            gaps = forward.gaps(batch, function.factor(relaxed.gates(done, noise)))
            size = relaxed.sizes(done).sum()
            loss = penalty.value * size - gaps.mean()
            if not torch.isfinite(loss):
                raise CcaError(f"masking: the objective became {loss.item()}; lower circuit.learning_rate")
            (relaxed.parameters.grad,) = torch.autograd.grad(loss, relaxed.parameters)
            optimiser.step()
            relaxed.after_step(done)
            penalty.update(float(relaxed.sizes(done).detach().sum()))
            total += float(gaps.detach().sum())
            step += 1
        schedule.step()
        history.append(total / len(forward.last))
        if progress:
            progress(1)
    return Mask(relaxed.final().cpu(), tuple(history))
