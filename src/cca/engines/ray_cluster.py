"""The Ray cluster of a run: one started on this machine for it, or one that is there."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from cca.errors import CcaError

START = "`ray start --head` makes one"


def installed() -> bool:
    return find_spec("ray") is not None


def connected(
    address: str | None, actors: int, cpus: float, gpus: float, tell: Callable[[str], None]
) -> tuple[Any, bool]:
    """The ray module, in a cluster, and whether it was entered by this call.

    Without an address one is started here, with processors enough for the actors. Raises CcaError where Ray is missing
    or the cluster is not there; says so where the cluster has less than the actors ask for.
    """
    if not installed():
        raise CcaError('engine ray: Ray is not installed; pip install -e ".[ray]", or set engine: hf')
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    if address is not None:
        _check_reachable(address)
    entered = not ray.is_initialized()
    if entered:
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        if address is None:
            processors = max(os.cpu_count() or 1, int(actors * cpus) + 1)
            ray.init(address="local", include_dashboard=False, num_cpus=processors, **quiet)
        else:
            try:
                ray.init(address=address, **quiet)
            except (ConnectionError, RuntimeError, ValueError) as error:
                reason = " ".join(str(error).split())[:200]
                raise CcaError(f"engine ray: no cluster at {address} ({reason}); {START}") from error
    there = ray.cluster_resources()
    for kind, wanted in (("CPU", actors * cpus), ("GPU", actors * gpus)):
        if there.get(kind, 0) < wanted:
            tell(
                f"ray: {actors} actors ask for {wanted:g} {kind}s and there are {there.get(kind, 0):g}; "
                "those that find none wait"
            )
    return ray, entered


def _check_reachable(address: str) -> None:
    """Ray itself waits minutes for a cluster that is not there."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon:
        return  # auto: what runs on this machine
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, ValueError) as error:
        raise CcaError(f"engine ray: no cluster at {address} ({error}); {START}") from error
