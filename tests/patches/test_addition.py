"""One addition: exact where it claims to be, honest where it is not."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cca.patches.algebra import exact_delta, nearest_reachable

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-3, 3, width=32), st.floats(-3, 3, width=32)), min_size=1, max_size=8),
    st.sampled_from(DTYPES),
)
def test_exact_delta_never_claims_what_the_addition_does_not_give(
    pairs: list[tuple[float, float]], dtype: torch.dtype
) -> None:
    before, after = torch.tensor(pairs).T.to(dtype)
    delta, wrong = exact_delta(before, after)
    merged = before.clone()
    merged += delta  # as PEFT does it
    assert torch.equal(merged != after, wrong)
    assert torch.equal(nearest_reachable(before, after)[~wrong], after[~wrong])
    if dtype is torch.bfloat16:  # 8 bits of mantissa: float32 reaches all but extreme ratios
        close = (before.abs() < 2**14 * after.abs()) & (before.abs() > 2**-14 * after.abs())
        assert not (wrong & close).any()


def test_small_changes_of_float32_weights_are_always_reached() -> None:
    generator = torch.Generator().manual_seed(0)
    before = torch.randn(100_000, generator=generator)
    after = before * (1 + 0.5 * torch.rand(before.shape, generator=generator))
    assert not exact_delta(before, after)[1].any()


def test_the_share_of_float32_weights_out_of_reach_is_small() -> None:
    """Changes that cross zero may be out of reach; rows snapped to what is reachable then stay there."""
    generator = torch.Generator().manual_seed(0)
    before = torch.randn(100_000, generator=generator)
    after = before
    for _ in range(10):
        after = after + 0.01 * torch.randn(before.shape, generator=generator)
    wrong = exact_delta(before, after)[1]
    assert 0 < wrong.float().mean() < 0.05
    snapped = nearest_reachable(before, after)
    assert not exact_delta(before, snapped)[1].any()
    torch.testing.assert_close(snapped, after, atol=1e-6, rtol=0)
