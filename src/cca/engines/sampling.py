"""How a token is chosen from logits: one uniform number a token from the request's own generator, by inverse CDF.

Every engine chooses with these two functions, so the same logits and seed give the same token in any of them, and
neither the order nor the size of a batch decides what is sampled.
"""

from __future__ import annotations

import torch
from torch import Tensor


def uniforms(seed: int, steps: int) -> Tensor:
    """(steps,) float64 numbers in [0, 1) on the CPU; a longer draw begins with the shorter one."""
    return torch.rand(steps, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def in_double(x: Tensor) -> Tensor:
    """``x`` in float64, on its device; on the CPU where that has no float64 (MPS)."""
    return (x.cpu() if x.device.type == "mps" else x).double()


def choose(logits: Tensor, temperatures: Tensor, places: Tensor | None) -> Tensor:
    """(B, V) -> (B,): the greedy token where the temperature is 0, else the one at its place (B,) in the CDF.

    ``places`` None: all are greedy.
    """
    greedy = logits.argmax(dim=-1)
    if places is None:
        return greedy
    wide = in_double(logits)
    scaled = wide / temperatures.to(wide.device).clamp_min(1e-6)[:, None]
    cumulative = scaled.softmax(dim=-1).cumsum(dim=-1)
    sampled = torch.searchsorted(cumulative, places[:, None] * cumulative[:, -1:], right=True)[:, 0]
    sampled = sampled.clamp_max(logits.shape[-1] - 1).to(greedy.device)
    return torch.where(temperatures > 0, sampled, greedy)
