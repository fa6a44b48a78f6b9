"""Pivots as one-token problems: the gaps of whole prompts, wherever prefixes are kept, whatever the batch."""

from __future__ import annotations

import pytest
import torch
from doubles import in_double
from torch import Tensor
from zoo import VOCABULARY, whole_gaps

import tiny_world
from cca.gradients.pivot_forward import PivotForward, logit_gaps
from cca.models.anatomy.anatomy import Anatomy, anatomy_of
from cca.models.forward.gates import gated
from cca.models.forward.prefix_store import Storage
from cca.pivots.pivot import Pivot

SHARED = torch.randint(3, VOCABULARY, (12,), generator=torch.Generator().manual_seed(9)).tolist()
MODEL = tiny_world.model("gemma2")  # every other layer sees 8 tokens back, and scores are capped


def some_factors(anatomy: Anatomy, *rows: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(*rows, anatomy.size, generator=generator, dtype=torch.float64) + 0.5


def all_gaps(forward: PivotForward, factors: Tensor) -> Tensor:
    found = torch.zeros(len(forward.last), dtype=torch.float64)
    for batch in range(forward.batches):
        rows = forward.rows(batch)
        found[rows] = forward.gaps(batch, factors if factors.dim() == 1 else factors[rows]).detach().double()
    return found


@torch.no_grad()
def gated_gaps(anatomy: Anatomy, pivots: list[Pivot], factors: Tensor) -> Tensor:
    gaps = []
    for row, pivot in enumerate(pivots):
        with gated(MODEL, anatomy, factors if factors.dim() == 1 else factors[row]):
            gaps.append(whole_gaps(MODEL, [pivot]))
    return torch.cat(gaps).double()


@pytest.mark.parametrize("storage", ["device", "memory", "disk", "auto"])
def test_prefixes_may_be_kept_anywhere(storage: Storage) -> None:
    anatomy, pivots = anatomy_of(MODEL), tiny_world.pivots(5, shared=SHARED)
    factors = some_factors(anatomy)
    with in_double():
        forward = PivotForward(MODEL, anatomy, pivots, batch_size=2, storage=storage)
        for _ in range(2):  # a batch is visited many times
            torch.testing.assert_close(
                all_gaps(forward, factors), gated_gaps(anatomy, pivots, factors), rtol=1e-10, atol=1e-10
            )


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_each_pivot_may_have_factors_of_its_own(batch_size: int) -> None:
    anatomy, pivots = anatomy_of(MODEL), tiny_world.pivots(5, shared=SHARED)
    factors = some_factors(anatomy, len(pivots))
    with in_double():
        found = all_gaps(PivotForward(MODEL, anatomy, pivots, batch_size), factors)
        torch.testing.assert_close(found, gated_gaps(anatomy, pivots, factors), rtol=1e-10, atol=1e-10)


def test_prompts_of_one_token_and_prompts_that_begin_each_other() -> None:
    anatomy = anatomy_of(MODEL)
    texts = [(7,), (7, 9), (7, 9, 11, 13), (7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27)]
    pivots = [Pivot(f"p{n}", "t", text, (), 3, 4, True, "branching", 1) for n, text in enumerate(texts)]
    factors = some_factors(anatomy)
    with in_double():
        found = all_gaps(PivotForward(MODEL, anatomy, pivots, batch_size=3), factors)
        torch.testing.assert_close(found, gated_gaps(anatomy, pivots, factors), rtol=1e-10, atol=1e-10)


def test_logit_gaps_are_wide() -> None:
    logits = torch.tensor([[1.0, 2.0, 4.0], [0.5, 0.25, 8.0]], dtype=torch.bfloat16)
    gaps = logit_gaps(logits, torch.tensor([2, 0]), torch.tensor([0, 1]))
    assert gaps.dtype == torch.float32
    assert gaps.tolist() == [3.0, 0.25]
