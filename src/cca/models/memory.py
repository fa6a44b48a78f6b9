"""Memory: how much this process holds and could have, freed buffers, and half the batch when memory runs out.

By default glibc gives every large buffer back to the system and asks for a new one, whose pages the kernel must clear
again. On CPUs that is a third of the time of decoding a model of some million parameters, and it makes the first pass
of a process slower or faster than later ones, so that no plan of it holds (`keep_freed_memory`).
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch

from cca import distributed
from cca.errors import CcaError

T = TypeVar("T")
TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4  # as in malloc.h
GROWTH = 64 << 20
"""Bytes that the heap grows by at once."""
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
SIGNS = ("not enough memory", "can't allocate memory", "out of memory", "ALLOC_FAILED")
"""Parts of the messages of a RuntimeError that means out of memory: torch's CPU allocators and CUDA's libraries."""


def keep_freed_memory() -> bool:
    """Keep freed buffers in this process, to be used again; returns whether that is so.

    It is not where the user has set glibc's own variables.
    """
    theirs = any(name.startswith("MALLOC_") for name in os.environ)
    mallopt = _function("mallopt")
    if mallopt is None or theirs or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    mallopt.argtypes, mallopt.restype = [ctypes.c_int, ctypes.c_int], ctypes.c_int
    return all(mallopt(*pair) for pair in ((MMAP_MAX, 0), (TRIM_THRESHOLD, -1), (TOP_PAD, GROWTH)))


def give_back_freed_memory() -> None:
    """Give freed buffers back to the system."""
    if (trim := _function("malloc_trim")) is not None:
        trim.argtypes = [ctypes.c_size_t]
        trim(0)


def available_memory(device: torch.device | None = None, enough: int | None = None) -> int:
    """Bytes that this process could still allocate on ``device``; by default in main memory.

    Of main memory within a container's limit. Freed buffers are given back first, unless ``enough`` is free already.
    """
    if device is not None and device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if enough is not None and (free := _free_main_memory()) >= enough:
        return free
    give_back_freed_memory()
    return _free_main_memory()


def _free_main_memory() -> int:
    free = psutil.virtual_memory().available
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and used.is_file() and limit.read_text().strip().isdigit():
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return max(free, 0)


def reset_peak_memory() -> None:
    """Count peaks from now on; where the system cannot, peaks are those of the whole process."""
    with suppress(OSError):
        CLEAR.write_text("5")
    for index in range(_gpus()):
        torch.cuda.reset_peak_memory_stats(index)


def peak_memory() -> dict[str, int]:
    """Peak bytes since `reset_peak_memory`: ``cpu`` (resident), and ``gpu`` (allocated, of the fullest)."""
    peaks = {"cpu": _peak_resident()}
    if _gpus():
        peaks["gpu"] = max(torch.cuda.max_memory_allocated(i) for i in range(_gpus()))
    return peaks


def is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)


def halving(
    what: str, batch_size: int, work: Callable[[int], T], tell: Callable[[str], None], together: bool = True
) -> T:
    """The result of ``work(batch_size)``, tried again with half the batch whenever memory runs out.

    ``work`` must leave nothing half-done when it raises; ``what`` names it in messages to ``tell``. Raises CcaError
    when a batch of one does not fit, and for work that all processes do ``together``: one cannot repeat it alone.
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
        gc.collect()
        give_back_freed_memory()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        tell(f"{what}: out of memory with a batch of {batch_size}; going on with {batch_size // 2}")
        batch_size //= 2


def _function(name: str) -> Any:
    """A function of glibc; None on other systems and C libraries."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        return getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError):
        return None


def _peak_resident() -> int:
    try:
        lines = STATUS.read_text(encoding="ascii", errors="replace").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        import resource

        unit = 1 if os.uname().sysname == "Darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _gpus() -> int:
    return torch.cuda.device_count() if torch.cuda.is_initialized() else 0
