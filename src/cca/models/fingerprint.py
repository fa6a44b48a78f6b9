"""The fingerprint of a model: a hash over every byte of its weights, remembered while its files stay as they are."""

from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

from cca.errors import CcaError
from cca.files import write_text
from cca.models.anatomy.weight_rows import tensor_hash

REMEMBERED_BYTES = 1 << 28
"""Smaller models are hashed again each time: it takes less than a second."""
THREADS = min(8, os.cpu_count() or 1)


def model_fingerprint(model: PreTrainedModel) -> str:
    """16 hex digits over the names, shapes, dtypes and every byte of the parameters and persistent buffers."""
    with ThreadPoolExecutor(THREADS) as pool:  # hashing leaves the interpreter free
        hashes = list(pool.map(lambda item: _described(*item), _weights(model).items()))
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()[:16]


def loaded_fingerprint(model: PreTrainedModel, folder: Path | None, before: str | None) -> str:
    """`model_fingerprint` of a model just loaded from ``folder``, from the user's cache where that knows it.

    ``before`` is `files_state` of the folder from before the model was loaded: files that changed meanwhile are not
    remembered.
    """
    size = sum(tensor.numel() * tensor.element_size() for tensor in _weights(model).values())
    if size < REMEMBERED_BYTES or before is None or files_state(folder) != before:
        return model_fingerprint(model)
    facts = [before, type(model).__name__, str(model.dtype), transformers.__version__, torch.__version__]
    path = _cache() / hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    with suppress(OSError, UnicodeDecodeError):
        known = path.read_text().strip()
        if len(known) == 16:
            return known
    found = model_fingerprint(model)
    with suppress(OSError):  # a home that cannot be written: hashed again next time
        write_text(path, found + "\n")
    return found


def files_state(folder: Path | None) -> str | None:
    """Name, size, time of the last write and inode of every file of a model folder; None without a folder."""
    if folder is None:
        return None
    facts = []
    for path in sorted(folder.iterdir()):
        with suppress(OSError):  # a link to nowhere
            found = path.stat()
            facts.append([path.name, found.st_size, found.st_mtime_ns, found.st_ino, found.st_dev])
    return json.dumps(facts)


def _weights(model: PreTrainedModel) -> dict[str, Tensor]:
    """Parameters, tied ones once, and persistent buffers; others are computed from the configuration."""
    aliases = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    buffers = {name: tensor for name, tensor in model.state_dict().items() if name not in aliases}
    return {**dict(model.named_parameters()), **buffers}


def _described(name: str, tensor: Tensor) -> str:
    if tensor.is_meta:
        raise CcaError(f"{name}: its weights are offloaded; load the model with all weights on a device")
    return f"{name} {tuple(tensor.shape)} {tensor.dtype} {tensor_hash(tensor)}"


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cca" / "fingerprints"
