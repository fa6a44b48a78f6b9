"""What the training of a mask left in the run folder after its last epoch, for the process that goes on with it.

One safetensors file that is replaced whole after every epoch and goes when the circuit is there. One that is damaged,
or is of another training, is as good as not there: the mask is then trained from the start, to the same gates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from cca.amplify.bits import tensor_hash
from cca.files import fingerprint, write_bytes

FILE = "mask.partial.safetensors"
FORMAT = "cca.mask-training.1"


class KeptMask:
    """``made_from`` says which training it is; ``done`` is told when an epoch is on disk."""

    def __init__(self, folder: Path, made_from: str, done: Callable[[], None]) -> None:
        self.path, self.made_from, self.done = folder / FILE, made_from, done

    def load(self) -> dict[str, Tensor] | None:
        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, "pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                sealed = (file.metadata() or {}).get("hash")
        except (SafetensorError, OSError, ValueError):
            return None
        return tensors if sealed == self._hash(tensors) else None

    def save(self, tensors: Mapping[str, Tensor]) -> None:
        whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
        write_bytes(self.path, save(whole, metadata={"format": FORMAT, "hash": self._hash(whole)}))
        self.done()

    def _hash(self, tensors: Mapping[str, Tensor]) -> str:
        return fingerprint(
            [FORMAT, self.made_from, {name: tensor_hash(own) for name, own in tensors.items()}]
        )
