"""`cca.distributed` for commands; imports torch only where a launcher started several processes."""

from __future__ import annotations

import os


def join() -> None:
    """Meet the other processes. Raises CcaError when they cannot be met."""
    if _several():
        from cca import distributed

        distributed.initialise()


def leads() -> bool:
    """True when this process shows progress."""
    return not _several() or os.environ.get("RANK") == "0"


def speaks() -> bool:
    """True when this failed process is the one that reports the error."""
    if not _several():
        return True
    from cca import distributed

    return distributed.speaks_for_failure()


def _several() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) > 1
