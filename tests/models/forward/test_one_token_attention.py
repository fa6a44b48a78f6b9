"""Attention of one token to constant prefixes against the general one, values and gradients, in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import tiny_world
from cca.models.forward.one_token_attention import OneTokenPrefixes
from cca.models.forward.prefix_state import DirectPrefixes, OwnPrefixes, SharedPrefix

B, D, DV = 3, 4, 6
MODEL = tiny_world.model()


def drawn(*shape: int, seed: int, grad: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_(grad)


@settings(max_examples=60, deadline=None)
@given(
    heads=st.sampled_from([(1, 1), (4, 1), (4, 2), (3, 3)]),
    shared=st.integers(0, 6),
    lengths=st.lists(st.integers(0, 5), min_size=B, max_size=B),
    window=st.none() | st.integers(1, 9),
    softcap=st.none() | st.just(2.0),
    sinks=st.booleans(),
    seed=st.integers(0, 9),
)
def test_equals_the_general_attention(
    heads: tuple[int, int],
    shared: int,
    lengths: list[int],
    window: int | None,
    softcap: float | None,
    sinks: bool,
    seed: int,
) -> None:
    H, KV = heads
    longest = max(lengths)
    before = SharedPrefix((drawn(KV, shared, D, seed=seed),), (drawn(KV, shared, DV, seed=seed + 10),), shared)
    own = OwnPrefixes(
        (drawn(KV, B, longest, D, seed=seed + 20),), (drawn(KV, B, longest, DV, seed=seed + 30),),
        torch.tensor(lengths), tuple(range(B)),
    )  # fmt: skip
    options = {"scaling": 0.7, "softcap": softcap, "sinks": drawn(H, seed=seed + 40) if sinks else None}
    found = []
    for kind in (DirectPrefixes, OneTokenPrefixes):
        q = drawn(B, H, 1, D, seed=seed + 50, grad=True)
        k, v = drawn(B, KV, 1, D, seed=seed + 60, grad=True), drawn(B, KV, 1, DV, seed=seed + 70, grad=True)
        prefixes = kind(MODEL, before if shared else None, own)
        out = prefixes.attend(0, q, k, v, window, **options)
        assert out.shape == (B, 1, H, DV)
        weights = drawn(B, 1, H, DV, seed=seed + 80)
        found.append((out.detach(), *torch.autograd.grad((out * weights).sum(), (q, k, v))))
    torch.testing.assert_close(found[1], found[0], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_stays_close_and_keeps_its_dtype(dtype: torch.dtype) -> None:
    keys, values = (drawn(2, B, 7, D, seed=seed).to(dtype) for seed in (1, 2))
    own = OwnPrefixes((keys,), (values,), torch.tensor([7, 3, 5]), (0, 1, 2))
    found = []
    for kind in (DirectPrefixes, OneTokenPrefixes):
        q = drawn(B, 4, 1, D, seed=3).to(dtype).requires_grad_()
        k, v = (drawn(B, 2, 1, D, seed=seed).to(dtype) for seed in (4, 5))
        out = kind(MODEL, None, own).attend(0, q, k, v, None, scaling=0.5)
        (gradient,) = torch.autograd.grad(out.float().square().sum(), q)
        assert out.dtype == gradient.dtype == dtype
        found.append((out, gradient))
    torch.testing.assert_close(found[1], found[0], rtol=0.03, atol=0.03)
