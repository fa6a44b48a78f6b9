"""Attention of one new token per row to constant prefixes, in few operations: most of the time of a masking step.

`prefix_attention` serves any number of new tokens and lets gradients into the prefixes. Here there is one token, and
keys and values of the prefixes are constants: scores need no expanded mask, the backward pass is written out, and
only the scores themselves have the prefixes' length. Same numbers, to rounding.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from transformers import PreTrainedModel

from cca.models.forward.prefix_state import DirectPrefixes, KeysValues, OwnPrefixes, SharedPrefix, batched_dtype

Bias = Tensor | None
"""Added to scores (KV, B, R, keys): minus infinity where a key may not be seen; None: all may."""


class OneTokenPrefixes(DirectPrefixes):
    """Prefixes for forward passes of one token per row; they may be put in place any number of times."""

    def __init__(self, model: PreTrainedModel, shared: SharedPrefix | None, own: OwnPrefixes) -> None:
        super().__init__(model, shared, own)
        self.arguments = cache(super().arguments)
        self.biases = cache(self._biases)

    def attend(
        self,
        layer: int,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        window: int | None,
        *,
        scaling: float = 1.0,
        softcap: float | None = None,
        sinks: Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        """q (B, H, 1, D), k and v (B, KV, 1, D) -> (B, 1, H, D)."""
        assert not options, options
        assert q.shape[2] == 1, q.shape
        assert self.own is not None
        shared = None
        if self.shared is not None:
            first = self._first_seen(window)
            shared = (self.shared.keys[layer][:, first:], self.shared.values[layer][:, first:])
        dtype, own = q.dtype, (self.own.keys[layer], self.own.values[layer])
        if not torch.is_grad_enabled():  # the backward pass would keep converted prefixes
            q, k, v, shared, own = batched_dtype(q, k, v, shared, own)
        biases = self.biases(window, q.device, q.dtype)
        return _Attention.apply(q, k, v, shared, own, biases, scaling, softcap, sinks).to(dtype)

    def _biases(self, window: int | None, device: torch.device, dtype: torch.dtype) -> tuple[Bias, Bias]:
        """The biases of the keys of the shared prefix, and of each row's own."""
        hidden = self._hidden(1, window, device)
        if hidden is None:
            return None, None
        assert self.own is not None
        hidden_keys = hidden.squeeze(1)[..., :-1]  # (B or 1, 1, keys); the new token sees itself
        width = self.own.keys[0].shape[2]
        shared, own = hidden_keys.split([hidden_keys.shape[-1] - width, width], dim=-1)
        bias = [torch.zeros(x.shape, device=device, dtype=dtype).masked_fill_(x, -torch.inf) for x in (shared, own)]
        return bias[0] if bool(shared.any()) else None, bias[1] if bool(own.any()) else None


class _Attention(torch.autograd.Function):
    """Gradients reach q, k and v; prefixes, biases and sinks are constants."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        shared: KeysValues | None,
        own: KeysValues,
        biases: tuple[Bias, Bias],
        scaling: float,
        softcap: float | None,
        sinks: Tensor | None,
    ) -> Tensor:
        B, H, _, D = q.shape
        KV = k.shape[1]
        R = H // KV  # query heads that read one key head
        q = (q.view(B, KV, R, D).transpose(0, 1) * scaling).contiguous()  # (KV, B, R, D)
        k, v = k.transpose(0, 1), v.transpose(0, 1)  # (KV, B, 1, D)
        scores = _to_keys(q, shared and shared[0], own[0], k)
        if softcap is not None:
            scores.div_(softcap).tanh_()
            ctx.tanh = scores.clone()
            scores.mul_(softcap)
        S0 = 0 if shared is None else shared[0].shape[1]
        for bias, start in zip(biases, (0, S0), strict=True):
            if bias is not None:
                scores[..., start : start + bias.shape[-1]].add_(bias)
        if sinks is not None:
            scores = torch.cat([scores, sinks.view(KV, 1, R, 1).expand(KV, B, R, 1).to(scores.dtype)], dim=-1)
        wide = torch.promote_types(scores.dtype, torch.float32)
        weights = torch.softmax(scores, dim=-1, dtype=wide)
        if sinks is not None:
            weights = weights[..., :-1]
        low = weights.to(v.dtype)
        ctx.save_for_backward(weights, q, k, v)
        ctx.shared, ctx.own, ctx.scaling, ctx.softcap = shared, own, scaling, softcap
        out = _through_values(low, shared and shared[1], own[1], v)  # (KV, B, R, D)
        return out.permute(1, 0, 2, 3).reshape(B, 1, H, -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        weights, q, k, v = ctx.saved_tensors
        KV, B, R, D = q.shape
        out = gradients[0].view(B, KV, R, -1).transpose(0, 1).contiguous()  # (KV, B, R, D)
        by_weight = _to_keys(out, ctx.shared and ctx.shared[1], ctx.own[1], v).to(weights.dtype)
        # the weight of a sink gets nothing back, so it may be left out of the sum that softmax subtracts
        scores = torch.ops.aten._softmax_backward_data(by_weight, weights, -1, weights.dtype)
        if ctx.softcap is not None:
            scores.mul_(1 - ctx.tanh.square())
        scores = scores.to(q.dtype)
        to_q = _through_values(scores, ctx.shared and ctx.shared[0], ctx.own[0], k).mul_(ctx.scaling)
        to_k = scores[..., -1:].transpose(2, 3) @ q  # (KV, B, 1, D)
        to_v = weights[..., -1:].to(out.dtype).transpose(2, 3) @ out
        to_q = to_q.transpose(0, 1).reshape(B, KV * R, 1, D)
        return to_q, to_k.transpose(0, 1), to_v.transpose(0, 1), None, None, None, None, None, None


def _to_keys(q: Tensor, shared: Tensor | None, own: Tensor, new: Tensor) -> Tensor:
    """q (KV, B, R, D) times every key: shared (KV, S0, D), own (KV, B, S1, D), new (KV, B, 1, D) -> (KV, B, R, S)."""
    KV, B, R, D = q.shape
    S0 = 0 if shared is None else shared.shape[1]
    S = S0 + own.shape[2] + 1
    scores = q.new_empty(KV, B, R, S)  # filled part by part: joining parts would copy the long ones
    if shared is not None:
        into = scores.view(KV, B * R, S)[..., :S0]
        torch.bmm(q.view(KV, B * R, D), shared.transpose(1, 2), out=into)
    scores[..., S0 : S - 1] = q @ own.transpose(2, 3)
    scores[..., S - 1] = (q * new).sum(dim=-1)
    return scores


def _through_values(weights: Tensor, shared: Tensor | None, own: Tensor, new: Tensor) -> Tensor:
    """Weights (KV, B, R, S) times every value, in the order of `_to_keys` -> (KV, B, R, D)."""
    KV, B, R, S = weights.shape
    S1 = own.shape[2]
    out = weights[..., S - 1 - S1 : S - 1] @ own
    out.addcmul_(weights[..., -1:], new)
    if shared is not None:
        flat = weights.view(KV, B * R, S)[..., : S - 1 - S1]  # a view: the long part is never copied
        out.view(KV, B * R, -1).baddbmm_(flat, shared)
    return out
