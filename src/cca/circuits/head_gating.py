"""Causal head gating in its two signs (arXiv 2505.13737), on the components and positions of CCA.

Gates g = sigmoid(w) ablate (factor g). Two masks are learned on the same pivots, each minimising the mean softplus of
minus the logit gap, one with a small push of every gate towards 1, one towards 0:

* low although pushed to 1: *interfering*, the pivots do better without it;
* high although pushed to 0: *facilitating*, the pivots need it;
* high and low as pushed: irrelevant.

Score: how far a gate held out against the push, 1 - g_pushed_up for interfering, g_pushed_down for facilitating.
``absolute`` takes the better of the two, ``signed`` facilitating ones alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from cca.engines.engine import Progress
from cca.errors import CcaError
from cca.gradients.pivot_forward import PivotForward


@dataclass(frozen=True)
class HeadGatingSettings:
    learning_rate: float = 0.1
    epochs: int = 30
    push: float = 0.1
    """Weight of the mean gate logit, towards 1 or towards 0."""
    limit: float = 6.0
    """Gate logits are clamped to [-limit, limit]: a gate at 1 to 3e-3 has gradient enough to come back."""
    seed: int = 0


@dataclass(frozen=True)
class HeadGates:
    """Both masks, (anatomy.size,) each; gates of other kinds stay at 1."""

    pushed_up: Tensor
    pushed_down: Tensor

    def scores(self, sign: str) -> Tensor:
        """How much a component matters, (anatomy.size,). Raises CcaError for an unknown sign."""
        facilitating, interfering = self.pushed_down, 1 - self.pushed_up
        if sign == "absolute":
            return torch.maximum(facilitating, interfering)
        if sign == "signed":
            return facilitating
        raise CcaError(f"head gating: expected sign to be absolute or signed, got {sign!r}")


def learn_head_gates(
    forward: PivotForward,
    kinds: Sequence[str],
    settings: HeadGatingSettings,
    progress: Progress | None = None,
) -> HeadGates:
    """Both masks over the components of ``kinds``. ``progress`` counts epochs, of two masks."""
    return HeadGates(*(_learn(forward, kinds, settings, sign, progress) for sign in (1.0, -1.0)))


def _learn(
    forward: PivotForward,
    kinds: Sequence[str],
    settings: HeadGatingSettings,
    sign: float,
    progress: Progress | None,
) -> Tensor:
    anatomy = forward.anatomy
    dtype = torch.promote_types(forward.model.dtype, torch.float32)
    gated = torch.zeros(anatomy.size, dtype=torch.bool, device=forward.model.device)
    for layer in range(len(anatomy.layers)):
        for kind in kinds:
            gated[anatomy.span(layer, kind)] = True
    logits = torch.zeros(anatomy.size, dtype=dtype, device=gated.device).requires_grad_()
    adam = torch.optim.Adam([logits], lr=settings.learning_rate)
    generator = torch.Generator().manual_seed(settings.seed)
    for _ in range(settings.epochs):
        for batch in torch.randperm(forward.batches, generator=generator).tolist():
            factors = torch.where(gated, logits.sigmoid(), 1.0)
            pull = functional.softplus(-forward.gaps(batch, factors)).mean()
            loss = pull - sign * settings.push * logits[gated].mean()
            if not torch.isfinite(loss):
                raise CcaError(f"head gating: the objective became {loss.item()}; lower the learning rate")
            (logits.grad,) = torch.autograd.grad(loss, logits)
            adam.step()
            with torch.no_grad():
                logits.clamp_(-settings.limit, settings.limit)
        if progress:
            progress(1)
    # a gate that is not learned is neither: unmoved by the push up, closed by the push down
    rest = 1.0 if sign > 0 else 0.0
    return torch.where(gated, logits.detach().sigmoid(), rest).cpu()
