"""Edits that one addition reaches: adapters are merged as W + delta, with delta in float32 whatever W is.

In half precision a float32 delta gives nearly every wanted weight. In float32 some are out of reach: where a weight
crossed zero or shrank much, no float32 added to the old value rounds to the new one. After some steps of training
that is true of about one weight in a hundred. `nearest_reachable` moves those by a unit in the last place or so, and
the rows can then be exported as an adapter to the bit; do it before the rows are evaluated.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cca.models.bits import bits

NEIGHBOURS = 2  # units in the last place to either side of after - before that are tried


def exact_delta(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    """(float32 deltas, mask of the elements where before + delta is not ``after``), both of the rows' shape.

    Values that the dtype itself can hold are preferred, so that loaders which keep adapters in the model's
    dtype are exact too. A zero that changes its sign counts as unchanged.
    """
    if before.dtype == torch.float64:
        return (after - before).float(), torch.ones_like(before, dtype=torch.bool)
    plain = after.float() - before.float()
    delta, wrong = plain.clone(), torch.ones_like(before, dtype=torch.bool)
    candidates = [plain.to(before.dtype).float(), plain]
    for steps in range(1, NEIGHBOURS + 1):
        candidates += [_neighbour(plain, steps), _neighbour(plain, -steps)]
    for candidate in candidates:
        right = wrong & ((before.float() + candidate).to(before.dtype) == after)
        delta[right] = candidate[right]
        wrong &= ~right
    return delta, wrong


def nearest_reachable(before: Tensor, after: Tensor) -> Tensor:
    """``after``, but for the elements no single addition reaches: those are the closest that one does."""
    delta, wrong = exact_delta(before, after)
    return torch.where(wrong, (before.float() + delta).to(before.dtype), after)


def _neighbour(values: Tensor, steps: int) -> Tensor:
    """The float32 numbers ``steps`` units in the last place away from zero (towards it, if negative)."""
    return (bits(values) + steps).view(torch.float32)
