"""Prefixes in place on a model: the keys and values that new tokens attend to, and which of them they may see.

Two ways to the same numbers. `DirectPrefixes` answers inside the attention function, where nothing is
copied. `CachedPrefixes` serves architectures that bypass AttentionInterface (Falcon, GPT-J, BLOOM, ...): they
read a transformers cache, rebuilt for each forward pass with each row's padding at its start,
so that relative positions (ALiBi, local attention) are right.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from cca.errors import CcaError


@dataclass(frozen=True, eq=False)
class SharedPrefix:
    """Keys and values of the ``length`` tokens that every row begins with, by layer: (KV, length, D)."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    length: int


@dataclass(frozen=True, eq=False)
class OwnPrefixes:
    """Keys and values of each row's own tokens after the shared prefix, right-padded.

    keys, values: by layer, (KV, B, S1, D); lengths: (B,) real tokens; rows: which of the sequences given to
    `prefill_own` these are.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    lengths: Tensor
    rows: tuple[int, ...]


class Prefixes:
    """The part common to both ways: the rows and true positions of new tokens."""

    def __init__(self, model: PreTrainedModel, shared: SharedPrefix | None, own: OwnPrefixes | None) -> None:
        self.model = model
        self.shared = shared
        self.own = own
        self.shared_length = 0 if shared is None else shared.length
        self.longest = self.shared_length + (0 if own is None else own.keys[0].shape[2])

    def arguments(self, rows: int, width: int, device: torch.device) -> dict[str, Any]:
        """Arguments for the forward pass of (rows, width) new tokens."""
        if self.own is not None and len(self.own.rows) != rows:
            raise CcaError(f"prefixes: expected new tokens for {len(self.own.rows)} rows, got {rows}")
        limit = fixed_rotation_limit(self.model)
        if limit is not None and self.longest + width > limit:
            raise CcaError(
                f"prefixes: expected at most {limit} tokens, beyond which this model's rotary embedding depends "
                f"on the prompt's length, got {self.longest + width}; use shorter prompts"
            )
        if "position_ids" not in inspect.signature(self.model.forward).parameters:
            return {}
        positions = self.starts(device) + torch.arange(width, device=device)
        return {"position_ids": positions.expand(rows, width)}

    def starts(self, device: torch.device) -> Tensor:
        """Position of each row's first new token, (B or 1, 1)."""
        if self.own is None:
            return torch.tensor([[self.shared_length]], device=device)
        return (self.shared_length + self.own.lengths).to(device)[:, None]


class DirectPrefixes(Prefixes):
    def __init__(self, model: PreTrainedModel, shared: SharedPrefix | None, own: OwnPrefixes | None) -> None:
        super().__init__(model, shared, own)
        self.hidden = lru_cache(maxsize=8)(self._hidden)  # the same for all layers of a kind

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, window: int | None, **options: Any) -> Tensor:
        """q (B, H, T, D), k and v (B, KV, T, D) of new tokens -> (B, T, H, D)."""
        shared = own = None
        if self.shared is not None:
            first = self._first_seen(window)
            shared = (self.shared.keys[layer][:, first:], self.shared.values[layer][:, first:])
        if self.own is not None:
            own = (self.own.keys[layer], self.own.values[layer])
        hidden = self.hidden(q.shape[2], window, q.device)
        return prefix_attention(q, k, v, shared, own, hidden, **options)

    def _first_seen(self, window: int | None) -> int:
        """The first shared position that any new token may see."""
        return 0 if window is None else min(self.shared_length, max(0, self.shared_length - window + 1))

    def _hidden(self, width: int, window: int | None, device: torch.device) -> Tensor | None:
        """True where a key may not be seen, (B or 1, 1, width, keys), or None when all may."""
        queries = self.starts(device) + torch.arange(width, device=device)  # (B or 1, T)
        keys = [torch.arange(self._first_seen(window), self.shared_length, device=device)]
        keys[0] = keys[0].expand(len(queries), -1)
        if self.own is not None:
            here = torch.arange(self.own.keys[0].shape[2], device=device)
            real = here < self.own.lengths.to(device)[:, None]
            # padding stands after every query
            keys.append(torch.where(real, self.shared_length + here, torch.iinfo(torch.long).max))
        position = torch.cat([*keys, queries], dim=1)[:, None]  # (B or 1, 1, keys)
        hidden = position > queries[..., None]
        if window is not None:
            hidden |= position <= queries[..., None] - window
        return hidden[:, None] if bool(hidden.any()) else None


class CachedPrefixes(Prefixes):
    cache: DynamicCache | None = None
    """The cache of the last forward pass."""

    def arguments(self, rows: int, width: int, device: torch.device) -> dict[str, Any]:
        if self.model.is_gradient_checkpointing and self.model.training:
            kind = self.model.config.model_type
            raise CcaError(f"{kind}: expected no gradient checkpointing next to prefixes, got it; call model.eval()")
        arguments = super().arguments(rows, width, device)
        layers, padding = self._arranged(rows, device)
        self.cache = DynamicCache()
        if not layers:
            return {**arguments, "past_key_values": self.cache, "use_cache": True}
        for layer, (keys, values) in enumerate(layers):
            self.cache.update(keys, values, layer)
        there = torch.arange(layers[0][0].shape[2] + width, device=device)
        mask = (there >= padding[:, None]).long()
        return {**arguments, "past_key_values": self.cache, "use_cache": True, "attention_mask": mask}

    def new_keys_values(self, width: int) -> list[KeysValues]:
        """Keys and values (B, KV, T, D) of the ``width`` new tokens of the last forward pass, by layer."""
        assert self.cache is not None
        layers: list[Any] = self.cache.layers
        return [(layer.keys[:, :, -width:], layer.values[:, :, -width:]) for layer in layers]

    def _arranged(self, rows: int, device: torch.device) -> tuple[list[KeysValues], Tensor]:
        """By layer keys and values (B, KV, S0 + S1, D), padding first; how much of it each row has (B,)."""
        padding = torch.zeros(rows, dtype=torch.long, device=device)
        if self.own is not None:
            padding = self.own.keys[0].shape[2] - self.own.lengths.to(device)
        some = self.shared or self.own
        sides = [
            [self._joined(what, layer, padding) for layer in range(0 if some is None else len(some.keys))]
            for what in ("keys", "values")
        ]
        return list(zip(*sides, strict=True)), padding

    def _joined(self, what: str, layer: int, padding: Tensor) -> Tensor:
        rows = len(padding)
        parts = []  # (B, S, KV, D)
        if self.shared is not None:
            parts.append(getattr(self.shared, what)[layer].transpose(0, 1).expand(rows, -1, -1, -1))
        if self.own is not None:
            parts.append(getattr(self.own, what)[layer].permute(1, 2, 0, 3))
        x = torch.cat(parts, dim=1)
        positions = torch.arange(x.shape[1], device=padding.device) - padding[:, None]
        row = torch.arange(rows, device=padding.device)[:, None]
        return x[row, positions.clamp(min=0)].transpose(1, 2)


def fixed_rotation_limit(model: PreTrainedModel) -> int | None:
    """Positions up to which rotary embeddings do not depend on the prompt's length; None when they never do."""
    config: Any = model.config.get_text_config()
    parameters = getattr(config, "rope_parameters", None) or {}
    limits = [
        rope.get("original_max_position_embeddings") or config.max_position_embeddings
        for rope in (parameters, *parameters.values())
        if isinstance(rope, dict) and rope.get("rope_type") in ("dynamic", "longrope")
    ]
    return min(limits, default=None)


KeysValues = tuple[Tensor, Tensor]


def prefix_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    shared: KeysValues | None,
    own: KeysValues | None,
    hidden: Tensor | None,
    scaling: float,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """q (B, H, T, D), k and v (B, KV, T, D) of the new tokens -> (B, T, H, D).

    shared: keys and values (KV, S0, D); own: (KV, B, S1, D), right-padded.
    hidden: True where a key may not be seen, (B or 1, 1, T, S0 + S1 + T), in the order shared, own, new.
    sinks: (H,) learned scores that take weight but have no value.
    The softmax runs in float32 or wider.
    """
    dtype = q.dtype
    q, k, v, shared, own = batched_dtype(q, k, v, shared, own)
    B, H, T, D = q.shape
    KV = k.shape[1]
    R = H // KV  # query heads that read one key head
    q = (q * scaling).reshape(B, KV, R * T, D).transpose(0, 1)  # (KV, B, R*T, D)
    k, v = k.transpose(0, 1), v.transpose(0, 1)  # (KV, B, T, D)

    scores = []  # of each part, (KV, B, R*T, keys)
    if shared is not None:
        together = q.reshape(KV, B * R * T, D) @ shared[0].transpose(1, 2)
        scores.append(together.view(KV, B, R * T, -1))
    if own is not None:
        scores.append(q @ own[0].transpose(2, 3))
    scores.append(q @ k.transpose(2, 3))
    widths = [score.shape[-1] for score in scores]
    joined = torch.cat(scores, dim=-1)
    if softcap is not None:
        joined = torch.tanh(joined / softcap) * softcap
    if hidden is not None:
        joined.view(KV, B, R, T, -1).masked_fill_(hidden, float("-inf"))
    if sinks is not None:
        column = sinks.to(joined.dtype).view(KV, 1, R, 1, 1).expand(KV, B, R, T, 1)
        joined = torch.cat([joined, column.reshape(KV, B, R * T, 1)], dim=-1)
        widths.append(1)
    wide = torch.promote_types(joined.dtype, torch.float32)
    weights = iter(torch.softmax(joined, dim=-1, dtype=wide).to(v.dtype).split(widths, dim=-1))

    sums = []  # of each part, (KV, B, R*T, D)
    if shared is not None:
        together = next(weights).reshape(KV, B * R * T, -1) @ shared[1]
        sums.append(together.view(KV, B, R * T, -1))
    if own is not None:
        sums.append(next(weights) @ own[1])
    sums.append(next(weights) @ v)
    out = sum(sums[1:], sums[0])
    return out.view(KV, B, R, T, -1).permute(1, 3, 0, 2, 4).reshape(B, T, H, -1).to(dtype)


def batched_dtype(
    q: Tensor, k: Tensor, v: Tensor, shared: KeysValues | None, own: KeysValues | None
) -> tuple[Tensor, Tensor, Tensor, KeysValues | None, KeysValues | None]:
    """The same in the dtype that attention is computed in: on a CPU batched products in half precision are converted,
    or are up to twenty times slower (torch 2.13 without AVX-512)."""
    if q.device.type != "cpu" or q.dtype not in (torch.float16, torch.bfloat16):
        return q, k, v, shared, own
    pairs = [side and (side[0].float(), side[1].float()) for side in (shared, own)]
    return q.float(), k.float(), v.float(), pairs[0], pairs[1]
