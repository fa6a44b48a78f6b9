"""What runs inside vLLM's own processes: our sampling as a logits processor, and our weights put in place.

Only vLLM imports this module, by the names that `cca.engines.vllm` gives it.

* `SeededSampling` makes the token that `cca.engines.decoding.choose` picks the only possible one. Requests are greedy
  for vLLM; seed and temperature travel with its own parameters.
* `WeightsInPlace` becomes part of vLLM's worker. Tensors come in a safetensors file, named as in a checkpoint, and go
  through vLLM's own loader, which knows how this model fuses, shards and packs them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from vllm import SamplingParams  # pyright: ignore[reportMissingImports]
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality  # pyright: ignore[reportMissingImports]

from cca.engines.decoding import choose, uniforms

SAMPLING = "cca"
"""Under this name seed and temperature are among a request's extra arguments."""


@dataclass(frozen=True)
class _Row:
    temperature: float
    places: Tensor  # (max new tokens,) float64 in [0, 1)
    output: list[int]
    """The tokens made so far; vLLM appends to it."""


class SeededSampling(LogitsProcessor):  # pyright: ignore[reportUntypedBaseClass]
    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        del vllm_config, is_pin_memory
        self.device = device
        self.rows: dict[int, _Row] = {}

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        if batch_update is None:
            return
        for index in batch_update.removed:
            self.rows.pop(index, None)
        for index, parameters, _, output in batch_update.added:
            self.rows.pop(index, None)
            row = _row(parameters, output)
            if row is not None:
                self.rows[index] = row
        for source, target, direction in batch_update.moved:
            moved, replaced = self.rows.pop(source, None), self.rows.pop(target, None)
            if moved is not None:
                self.rows[target] = moved
            if replaced is not None and direction == MoveDirectionality.SWAP:
                self.rows[source] = replaced

    def apply(self, logits: Tensor) -> Tensor:
        """(B, V) -> the same, with one finite value in each sampled row."""
        if not self.rows:
            return logits
        indices = torch.tensor(list(self.rows), device=logits.device)
        temperatures = torch.tensor([row.temperature for row in self.rows.values()], device=logits.device)
        places = torch.stack([row.places[len(row.output)] for row in self.rows.values()]).to(logits.device)
        chosen = choose(logits[indices], temperatures, places)
        logits[indices] = -torch.inf
        logits[indices, chosen] = 0.0
        return logits


def _row(parameters: SamplingParams, output: list[int]) -> _Row | None:
    asked = (parameters.extra_args or {}).get(SAMPLING)
    if asked is None:
        return None
    # One more than is asked for: where a text ends, vLLM may have begun the step after it.
    return _Row(asked["temperature"], uniforms(asked["seed"], parameters.max_tokens + 1), output)


class WeightsInPlace:
    """Methods vLLM adds to its worker."""

    model_runner: Any

    def cca_put_weights(self, path: str) -> None:
        """Load the tensors of a safetensors file into the running model."""

        with safe_open(path, "pt") as tensors:
            self.model_runner.reload_weights(
                weights_iterator=((name, tensors.get_tensor(name)) for name in tensors.keys())  # noqa: SIM118
            )
