"""Out of memory: noticed whichever allocator says it, and answered with half the batch."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TypeVar

import torch

from cca import distributed
from cca.errors import CcaError
from cca.models.memory import give_back_freed_memory

T = TypeVar("T")
SIGNS = ("not enough memory", "can't allocate memory", "out of memory", "ALLOC_FAILED")
"""How a RuntimeError reads that is one: torch's CPU allocator on Windows and Linux, CUDA's libraries."""


def is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)


def halving(
    what: str, batch_size: int, work: Callable[[int], T], tell: Callable[[str], None], together: bool = True
) -> T:
    """``work(batch_size)``, tried again with half the batch as often as memory runs out.

    ``work`` must leave nothing half-done when it raises. Raises CcaError when a batch of one does not fit, and for work
    that all processes of a run do ``together``: one cannot do it again by itself.
    """
    while True:
        try:
            return work(batch_size)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if batch_size == 1:
                raise CcaError(
                    f"{what}: out of memory with a batch of one; try a smaller dtype or device_map auto"
                ) from error
            if together and distributed.size() > 1:
                raise CcaError(
                    f"{what}: out of memory with a batch of {batch_size} on process {distributed.rank()}; lower the "
                    "batch size and run again with --fork"
                ) from error
        # Here the error is gone, and with it the frames that held the tensors of the failed attempt.
        batch_size = halved(what, batch_size, tell)


def halved(what: str, batch_size: int, tell: Callable[[str], None]) -> int:
    """Half of ``batch_size``, said aloud, with the memory of the failed attempt given back."""
    gc.collect()
    give_back_freed_memory()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    tell(f"{what}: out of memory with a batch of {batch_size}; going on with {batch_size // 2}")
    return batch_size // 2
