"""Attention in parts against one plain attention over everything written out."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cca.models.forward.prefix_state import prefix_attention

DOUBLE = {"dtype": torch.float64}


def written_out(
    q: Tensor, k: Tensor, v: Tensor, hidden: Tensor, scaling: float, softcap: float | None, sinks: Tensor | None
) -> Tensor:
    """q (B, H, T, D), k and v (B, H, S, D), hidden (B, 1, T, S) -> (B, T, H, D)."""
    scores = q @ k.transpose(2, 3) * scaling
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(hidden, float("-inf")).exp()
    total = scores.sum(-1, keepdim=True)
    if sinks is not None:
        total = total + sinks.exp().view(1, -1, 1, 1)
    return (scores / total @ v).transpose(1, 2)


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.tuples(*[st.integers(1, 3)] * 4),
    shared=st.integers(0, 4),
    own=st.integers(0, 4),
    softcap=st.sampled_from([None, 2.0]),
    sink=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_parts_equal_one_attention_over_everything(
    sizes: tuple[int, int, int, int], shared: int, own: int, softcap: float | None, sink: bool, seed: int
) -> None:
    B, KV, R, T = sizes
    D, H, S = 4, KV * R, shared + own + T
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, **DOUBLE).requires_grad_()

    q, k, v = random(B, H, T, D), random(B, KV, T, D), random(B, KV, T, D)
    common = (random(KV, shared, D), random(KV, shared, D)) if shared else None
    alone = (random(KV, B, own, D), random(KV, B, own, D)) if own else None
    sinks = random(H) if sink else None
    hidden = torch.rand(B, 1, T, S, generator=generator) < 0.3
    hidden[..., -1] = False  # a query always sees something

    def whole(which: int) -> Tensor:
        parts = [common[which].expand(B, -1, -1, -1)] if common else []
        parts += [alone[which].transpose(0, 1)] if alone else []
        return torch.cat([*parts, (k, v)[which]], dim=2).repeat_interleave(R, dim=1)

    actual = prefix_attention(q, k, v, common, alone, hidden, 0.7, softcap, sinks)
    expected = written_out(q, whole(0), whole(1), hidden, 0.7, softcap, sinks)
    torch.testing.assert_close(actual, expected)
    leaves = [x for x in (q, k, v, *(common or ()), *(alone or ()), sinks) if x is not None]
    weights = torch.randn(actual.shape, generator=generator, **DOUBLE)
    torch.testing.assert_close(
        torch.autograd.grad((actual * weights).sum(), leaves), torch.autograd.grad((expected * weights).sum(), leaves)
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_its_dtype_and_softmax_is_wide(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 2, 1, 8, generator=generator) for _ in range(3))
    shared = torch.randn(2, 2, 500, 8, generator=generator)
    expected = prefix_attention(q, k, v, (shared[0], shared[1]), None, None, 0.3)
    half = shared.to(dtype)
    actual = prefix_attention(q.to(dtype), k.to(dtype), v.to(dtype), (half[0], half[1]), None, None, 0.3)
    assert actual.dtype == dtype
    torch.testing.assert_close(actual.float(), expected, rtol=0.02, atol=0.02)
