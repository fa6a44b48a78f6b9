"""How much memory this process holds, has held at most, and could have: of the machine and of its GPUs, in bytes."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import torch

from cca.models.memory import free_main_memory

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def reset_peak_memory() -> None:
    """Count peaks from here on. Where the system cannot, peaks are those of the whole process."""
    with suppress(OSError):
        CLEAR.write_text("5")
    for index in range(_gpus()):
        torch.cuda.reset_peak_memory_stats(index)


def peak_memory() -> dict[str, int]:
    """Peak bytes since `reset_peak_memory`: ``cpu`` (resident), and ``gpu`` (allocated, of the fullest)."""
    found = {"cpu": _status("VmHWM")}
    if _gpus():
        found["gpu"] = max(torch.cuda.max_memory_allocated(i) for i in range(_gpus()))
    return found


def held_memory() -> int:
    """Resident bytes of this process."""
    return _status("VmRSS")


def free_memory(device: torch.device) -> int:
    """Bytes that could still be allocated where ``device`` is."""
    return int(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else free_main_memory()


def _status(name: str) -> int:
    try:
        lines = STATUS.read_text(encoding="ascii", errors="replace").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))
    except (OSError, StopIteration):
        import resource

        unit = 1 if os.uname().sysname == "Darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _gpus() -> int:
    return torch.cuda.device_count() if torch.cuda.is_initialized() else 0
