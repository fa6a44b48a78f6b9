"""Main memory: how much is free to this process, and what becomes of the buffers of tensors that it frees.

By default glibc gives every large buffer back to the system and asks for a new one, whose pages the kernel must clear
anew. On CPUs that is a third of the time of decoding a model of some million parameters, and it makes the first pass
of a process slower or faster than later ones, so that no plan of it holds.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from typing import Any

import psutil

TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4  # as in malloc.h
GROWTH = 64 << 20
"""Bytes that the heap grows by at once."""


def keep_freed_memory() -> bool:
    """Keep freed buffers with this process, to be taken again; says whether it was done.

    It is not where the user has set glibc's own variables.
    """
    theirs = any(name.startswith("MALLOC_") for name in os.environ)
    mallopt = _function("mallopt")
    if mallopt is None or theirs or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    mallopt.argtypes, mallopt.restype = [ctypes.c_int, ctypes.c_int], ctypes.c_int
    return all(mallopt(*pair) for pair in ((MMAP_MAX, 0), (TRIM_THRESHOLD, -1), (TOP_PAD, GROWTH)))


def give_back_freed_memory() -> None:
    """Let the system have what is freed, where somebody is about to ask how much is free."""
    if (trim := _function("malloc_trim")) is not None:
        trim.argtypes = [ctypes.c_size_t]
        trim(0)


def free_main_memory() -> int:
    """Bytes free to this process; a container's limit counts, and what the process keeps is given back first."""
    give_back_freed_memory()
    free = psutil.virtual_memory().available
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and used.is_file() and limit.read_text().strip().isdigit():
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return max(free, 0)


def _function(name: str) -> Any:
    """A function of glibc; None on other systems and C libraries."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        return getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError):
        return None
