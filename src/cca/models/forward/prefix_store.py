"""Storage of prefixes between steps: on the model's device, in main memory, or on disk.

The first batch shows what a token costs; times the number of tokens to come that is the need, and the first storage
with room takes all of them. ``str(stored)`` gives the storage and the numbers. Batches come back on the devices they
were computed on.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, get_args, overload

import torch
from safetensors.torch import load_file, save_file

from cca.errors import CcaError
from cca.models.forward.prefix_state import OwnPrefixes
from cca.models.memory import available_memory

Storage = Literal["device", "memory", "disk"]
SHARE: dict[Storage, float] = {"device": 0.5, "memory": 0.5, "disk": 0.9}
"""Share of the free bytes that prefixes may take: masking steps need room too."""


class StoredPrefixes(Sequence[OwnPrefixes]):
    """Batches of prefixes, added with `append` and read by number.

    tokens: padded tokens in all batches to come. storage: one of `Storage`, or "auto" for the first with room.
    folder: on disk, batches live in a temporary folder inside it, removed with this object; None for the
    system's own. Raises CcaError for an unknown storage, and on the first `append` when none has room.
    """

    def __init__(self, tokens: int, storage: Storage | Literal["auto"] = "auto", folder: Path | None = None) -> None:
        known = get_args(Storage)
        if storage not in ("auto", *known):
            raise CcaError(f"storage of prefixes: expected auto, {', '.join(known)}, got {storage!r}")
        self.tokens = tokens
        self.storage: Storage | None = None if storage == "auto" else storage
        self.moves = False
        """True when reading a batch copies it to where it was computed."""
        self.needed = 0
        self.free: dict[Storage, int] = {}
        self._folder = folder or Path(tempfile.gettempdir())
        self._batches: list[Callable[[], OwnPrefixes]] = []

    def append(self, batch: OwnPrefixes) -> None:
        if not self._batches:
            self._choose(batch)
        devices = [x.device for x in batch.keys]
        self.moves = self.storage == "disk" or (
            self.storage == "memory" and any(device.type != "cpu" for device in devices)
        )
        if self.storage == "disk":
            path = self._folder / f"{len(self._batches)}.safetensors"
            sides = {"key": batch.keys, "value": batch.values}
            save_file({f"{side}{n}": x for side, xs in sides.items() for n, x in enumerate(xs)}, path)
            self._batches.append(partial(_read, path, batch.lengths, batch.rows, devices))
        elif self.storage == "memory":
            held = _moved(batch, [torch.device("cpu")] * len(devices))
            self._batches.append(partial(_moved, held, devices))
        else:
            self._batches.append(lambda: batch)

    def __len__(self) -> int:
        return len(self._batches)

    @overload
    def __getitem__(self, number: int) -> OwnPrefixes: ...
    @overload
    def __getitem__(self, number: slice) -> list[OwnPrefixes]: ...
    def __getitem__(self, number: int | slice) -> OwnPrefixes | list[OwnPrefixes]:
        if isinstance(number, slice):
            return [batch() for batch in self._batches[number]]
        return self._batches[number]()

    def __str__(self) -> str:
        free = ", ".join(f"{name} has {_gib(size)} free" for name, size in self.free.items())
        return f"prefixes of {self.tokens} tokens take {_gib(self.needed)}; {free}; kept on {self.storage}"

    def _choose(self, first: OwnPrefixes) -> None:
        """Choose the storage, now that the bytes of one batch are known."""
        size = sum(x.numel() * x.element_size() for x in (*first.keys, *first.values))
        tokens = first.keys[0].shape[1] * first.keys[0].shape[2]
        self.needed = size * self.tokens // tokens if tokens else 0
        self.free = _free(first.keys[0].device, self._folder)
        if self.storage is None:
            self.storage = next((p for p, size in self.free.items() if self.needed <= SHARE[p] * size), None)
        if self.storage is None:
            raise CcaError(
                f"{self}: expected room in one of them, got none; give `folder` on a larger disk or fewer pivots"
            )
        if self.storage == "disk":
            self._folder.mkdir(parents=True, exist_ok=True)
            self._folder = Path(tempfile.mkdtemp(prefix="cca-prefixes-", dir=self._folder))
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)


def _moved(batch: OwnPrefixes, devices: Sequence[torch.device]) -> OwnPrefixes:
    """The batch with the keys and values of each layer on that layer's device."""
    keys, values = (
        tuple(x.to(device, non_blocking=True) for x, device in zip(side, devices, strict=True))
        for side in (batch.keys, batch.values)
    )
    return OwnPrefixes(keys, values, batch.lengths, batch.rows)


def _read(path: Path, lengths: torch.Tensor, rows: tuple[int, ...], devices: Sequence[torch.device]) -> OwnPrefixes:
    held = load_file(path)
    keys, values = (tuple(held[f"{side}{n}"] for n in range(len(devices))) for side in ("key", "value"))
    return _moved(OwnPrefixes(keys, values, lengths, rows), devices)


def _free(device: torch.device, folder: Path) -> dict[Storage, int]:
    """Free bytes of each storage, fastest first; with a CPU, device and memory are the same."""
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    slow: dict[Storage, int] = {"memory": available_memory(), "disk": shutil.disk_usage(there).free}
    if device.type != "cuda":
        return slow
    reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return {"device": torch.cuda.mem_get_info(device)[0] + reserved, **slow}


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"
