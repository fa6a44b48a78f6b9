"""The state of a training that outlives its process, and the file that keeps it.

A `TrainingFile` is one safetensors file that is replaced whole with each state. A damaged or foreign file is ignored:
training restarts and reaches the same result.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from cca.files import Row, fingerprint, write_bytes
from cca.models.anatomy.weight_rows import tensor_hash

FORMAT = "cca.training-state.1"
LARGEST = 2**31
"""Bytes. A larger state is not kept: writing that of a whole model costs more than the steps it saves."""


@dataclass(frozen=True)
class TrainingState:
    """Tensors on the CPU, and ``facts`` that JSON can hold (not-a-number and infinities included)."""

    tensors: Mapping[str, Tensor]
    facts: Row = field(default_factory=dict)


class TrainingFile:
    """Keeps the latest state of one training.

    ``made_from`` identifies the training: a state of any other is ignored. ``saved`` is called when a state is on disk.
    """

    def __init__(self, path: Path, made_from: str, saved: Callable[[], None] = lambda: None) -> None:
        self.path, self.made_from, self.saved = path, made_from, saved

    def part(self, *what: Any) -> TrainingFile:
        """The same file for a training that depends on ``what`` (JSON values) too."""
        return TrainingFile(self.path, fingerprint([self.made_from, *what]), self.saved)

    def load(self) -> TrainingState | None:
        """The state that an earlier process of the same training left; None without one."""
        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, "pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                about = file.metadata() or {}
        except (SafetensorError, OSError, ValueError):
            return None
        facts = about.get("facts", "")
        if about.get("hash") != self._hash(tensors, facts):
            return None
        return TrainingState(tensors, json.loads(facts))

    def save(self, state: TrainingState) -> None:
        """Replace the file's state, unless the new one is larger than `LARGEST`."""
        tensors = {name: tensor.contiguous() for name, tensor in state.tensors.items()}
        if sum(tensor.nbytes for tensor in tensors.values()) > LARGEST:
            return
        facts = json.dumps(state.facts)
        about = {"format": FORMAT, "facts": facts, "hash": self._hash(tensors, facts)}
        write_bytes(self.path, save(tensors, metadata=about))
        self.saved()

    def _hash(self, tensors: Mapping[str, Tensor], facts: str) -> str:
        hashes = {name: tensor_hash(tensor) for name, tensor in tensors.items()}
        return fingerprint([FORMAT, self.made_from, facts, hashes])


def optimiser_tensors(optimiser: torch.optim.Optimizer, leaf: Tensor) -> dict[str, Tensor]:
    """The state of an optimiser such as Adam for one leaf that it has stepped, on the CPU."""
    return {name: value.cpu() for name, value in optimiser.state[leaf].items()}


def restore_optimiser(optimiser: torch.optim.Optimizer, leaf: Tensor, tensors: Mapping[str, Tensor]) -> None:
    """Set the optimiser's state for ``leaf`` to what `optimiser_tensors` gave."""
    # the count of steps is a number, and stays on the CPU
    optimiser.state[leaf] = {name: value if value.dim() == 0 else value.to(leaf) for name, value in tensors.items()}
