"""Attention of new tokens to [a prefix all rows share | a prefix of each row | the new tokens themselves].

The three parts meet only as scores, in one softmax: keys and values of a prefix are never concatenated,
copied, or expanded over the batch or over grouped-query heads. The shared part is one matrix product for all
rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

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
    return out.view(KV, B, R, T, -1).permute(1, 3, 0, 2, 4).reshape(B, T, H, -1)
