"""What a training left in the run folder when it last had something to keep, for the process that goes on with it.

One safetensors file that is replaced whole each time, and goes when the stage's own file is there. One that is damaged,
or is of another training, is as good as not there: training then begins at the start, and comes to the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from cca.files import fingerprint, write_bytes
from cca.gradients.training_state import TrainingState
from cca.models.bits import tensor_hash

FORMAT = "cca.training-state.1"
LARGEST = 2**31
"""Bytes. A larger state is not kept: writing that of a whole model costs more than the steps it saves."""


class KeptState:
    """``made_from`` says which training it is; ``done`` is told when a state is on disk."""

    def __init__(self, path: Path, made_from: str, done: Callable[[], None]) -> None:
        self.path, self.made_from, self.done = path, made_from, done

    def load(self) -> TrainingState | None:
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
        tensors = {name: tensor.contiguous() for name, tensor in state.tensors.items()}
        if sum(tensor.nbytes for tensor in tensors.values()) > LARGEST:
            return
        facts = json.dumps(state.facts)
        about = {"format": FORMAT, "facts": facts, "hash": self._hash(tensors, facts)}
        write_bytes(self.path, save(tensors, metadata=about))
        self.done()

    def _hash(self, tensors: Mapping[str, Tensor], facts: str) -> str:
        hashes = {name: tensor_hash(own) for name, own in tensors.items()}
        return fingerprint([FORMAT, self.made_from, facts, hashes])
