"""The fingerprint of a model: a hash that binds a run to the weights it was started with."""

from __future__ import annotations

import hashlib

import torch
from transformers import PreTrainedModel

HASHED_VALUES = 4096
"""Values of each weight that enter the fingerprint; the patch hashes whole tensors."""


def model_fingerprint(model: PreTrainedModel) -> str:
    """16 hex digits over the names, shapes, dtypes and a spread of values of every weight."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        flat = parameter.detach().reshape(-1)
        spread = flat[:: max(1, flat.numel() // HASHED_VALUES)].to("cpu", torch.float32)
        digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}".encode())
        digest.update(spread.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
