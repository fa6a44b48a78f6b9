"""The precision of sums and comparisons: float32 or wider whatever the model's dtype, float64 where float32 is few."""

from __future__ import annotations

import torch
from torch import Tensor


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """float32, or ``dtype`` where that is wider."""
    return torch.promote_types(dtype, torch.float32)


def wide(x: Tensor) -> Tensor:
    """``x`` in float32 or wider: ties, gaps and sums are not half precision's to decide."""
    return x.to(wide_dtype(x.dtype))


def in_double(x: Tensor) -> Tensor:
    """``x`` in float64, on its device; on the CPU where that has no float64 (MPS)."""
    return (x.cpu() if x.device.type == "mps" else x).double()
