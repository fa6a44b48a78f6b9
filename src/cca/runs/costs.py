"""Costs of each stage: seconds, generated tokens and peak memory, summed over all processes that worked on the run.

Kept in ``timing.json`` and updated at every chunk, so that a killed run loses at most the costs of one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cca.errors import CcaError
from cca.files import read_json, write_json

FILE = "timing.json"
StageCost = dict[str, float]


class Costs:
    """``tokens`` returns the number of tokens generated so far in this process."""

    def __init__(self, folder: Path, tokens: Callable[[], int]) -> None:
        self.path, self.tokens = folder / FILE, tokens
        self._open: tuple[str, StageCost, float, int] | None = None

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the block's cost to the stage's, also when the block is interrupted. Blocks do not nest."""
        from cca.models.memory import reset_peak_memory

        assert self._open is None, f"{stage} within {self._open}"
        before = read_costs(self.path).get(stage, {"seconds": 0.0, "tokens": 0})
        reset_peak_memory()
        self._open = (stage, before, time.perf_counter(), self.tokens())
        try:
            yield
        finally:
            self.save()
            self._open = None

    def save(self) -> None:
        """Write the cost of the open block so far."""
        from cca.models.memory import peak_memory

        if self._open is None:
            return
        stage, before, began, tokens = self._open
        cost: dict[str, Any] = {
            "seconds": round(before["seconds"] + time.perf_counter() - began, 3),
            "tokens": int(before["tokens"]) + self.tokens() - tokens,
        }
        for device, size in peak_memory().items():
            cost[f"peak_{device}_bytes"] = max(size, int(before.get(f"peak_{device}_bytes", 0)))
        write_json(self.path, {**read_costs(self.path), stage: cost})


def read_costs(path: Path) -> dict[str, StageCost]:
    """The costs by stage; empty when there is no file. Raises CcaError for a damaged file."""
    if not path.exists():
        return {}
    costs = read_json(path)
    if not isinstance(costs, dict) or not all(map(_is_cost, costs.values())):
        raise CcaError(f"{path}: expected seconds and tokens of each stage; delete the file, it holds nothing else")
    return costs


def _is_cost(cost: object) -> bool:
    return (
        isinstance(cost, dict)
        and {"seconds", "tokens"} <= cost.keys()
        and all(type(value) in (int, float) and 0 <= value < 1e18 for value in cost.values())
    )
