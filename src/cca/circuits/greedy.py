"""Greedy subset selection on top of attribution, for circuits of a few components.

Candidates are the components of highest absolute attribution. The circuit grows by the candidate whose activation,
moved by ``change`` of itself in the direction its attribution points to, lowers the mean softplus of minus the logit
gap most, with those already chosen moved too: what two components both do is counted once.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from cca.circuits.circuit import Circuit
from cca.engines.engine import Progress
from cca.errors import CcaError
from cca.gradients.pivot_forward import PivotForward
from cca.models.anatomy.components import Component

CANDIDATES = 64
CHANGE = 0.5


def greedy_circuit(
    forward: PivotForward,
    gradient: Tensor,
    kinds: Sequence[str],
    count: int,
    candidates: int = CANDIDATES,
    change: float = CHANGE,
    progress: Progress | None = None,
) -> Circuit:
    """``count`` components, scored by the loss each took off when it was chosen (so that order can be read off).

    Costs about count * candidates forward passes of one token a pivot. Raises CcaError when there are fewer
    candidates than components asked for. ``progress`` counts components.
    """
    anatomy = forward.anatomy
    own = torch.tensor([anatomy.index(component) for component in anatomy.components(kinds)])
    pool = own[gradient[own].abs().topk(min(max(candidates, count), len(own))).indices].tolist()
    if len(pool) < count:
        raise CcaError(f"greedy: expected at most {len(pool)} components asked for, got {count}")
    factors = torch.ones(anatomy.size, dtype=gradient.dtype, device=forward.model.device)
    chosen: dict[Component, float] = {}
    now = _loss(forward, factors)
    for _ in range(count):
        losses = {place: _loss(forward, _moved(factors, gradient, place, change)) for place in pool}
        best = min(pool, key=lambda place: losses[place])
        factors = _moved(factors, gradient, best, change)
        chosen[anatomy.component(best)] = now - losses[best]
        now = losses[best]
        pool.remove(best)
        if progress:
            progress(1)
    return Circuit.of(chosen, "greedy", chosen)


def _moved(factors: Tensor, gradient: Tensor, place: int, change: float) -> Tensor:
    moved = factors.clone()
    moved[place] += change * torch.sign(gradient[place]).to(moved)
    return moved


@torch.no_grad()
def _loss(forward: PivotForward, factors: Tensor) -> float:
    total = sum(
        float(functional.softplus(-forward.gaps(batch, factors)).sum()) for batch in range(forward.batches)
    )
    return total / len(forward.last)
