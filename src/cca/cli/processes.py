"""`cca.distributed` for commands: torch is loaded only where a launcher has started several processes."""

from __future__ import annotations

import os


def join() -> None:
    """Meet the other processes. Raises CcaError when they cannot be met."""
    if _several():
        from cca import distributed

        distributed.initialise()


def leads() -> bool:
    """Whether this process talks."""
    return not _several() or os.environ.get("RANK") == "0"


def speaks() -> bool:
    """Whether this process, which has failed, is the one to say why."""
    if not _several():
        return True
    from cca import distributed

    return distributed.speaks_for_failure()


def _several() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) > 1
