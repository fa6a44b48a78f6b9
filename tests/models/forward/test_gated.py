"""The arguments of `gated`; what gates do is tested on every architecture in tests/architectures."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import PreTrainedModel
from zoo import tiny

from cca.errors import CcaError
from cca.models.anatomy.anatomy import Anatomy, anatomy_of
from cca.models.forward.gates import gated

TOKENS = torch.tensor([[5, 9, 3, 7], [11, 4, 8, 6]])


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return tiny("qwen3")


@pytest.fixture(scope="module")
def anatomy(model: PreTrainedModel) -> Anatomy:
    return anatomy_of(model)


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((3,), {}, r"factors of shape \(\d+,\)"),
        ((1, 2, 3), {}, "factors of shape"),
        (None, {"positions": "first"}, "'last' or 'all'"),
        (None, {"positions": "all", "last": [1, 1]}, "no `last`"),
        (None, {"last": [1]}, "2 last positions"),
        (None, {"last": [1, 4]}, "from 0 to 3"),
        (None, {"last": [-1, 1]}, "from 0 to 3"),
        ((3, None), {}, "2 rows of tokens, got 3"),
    ],
)
def test_what_does_not_fit_is_refused(
    model: PreTrainedModel, anatomy: Anatomy, shape: Any, options: dict[str, Any], message: str
) -> None:
    shape = tuple(n or anatomy.size for n in shape or (None,))
    with pytest.raises(CcaError, match=message), gated(model, anatomy, torch.ones(shape), **options):
        model(input_ids=TOKENS)


def test_each_row_has_its_own_factors_and_position(model: PreTrainedModel, anatomy: Anatomy) -> None:
    factors = torch.rand(2, anatomy.size, generator=torch.Generator().manual_seed(0)) * 2
    with gated(model, anatomy, factors, last=torch.tensor([1, 3])):
        together = model(input_ids=TOKENS).logits
    for row, last in ((0, 1), (1, 3)):
        with gated(model, anatomy, factors[row], last=[last]):
            alone = model(input_ids=TOKENS[row : row + 1]).logits[0]
        torch.testing.assert_close(together[row], alone, rtol=1e-4, atol=1e-4)


def test_float32_factors_keep_their_resolution_over_a_half_precision_model(anatomy: Anatomy) -> None:
    """A factor of 1.003 is 1 in bfloat16; its effect must not vanish."""
    model = tiny("qwen3").to(torch.bfloat16)
    with torch.no_grad():
        plain = model(input_ids=TOKENS).logits
        with gated(model, anatomy, torch.full((anatomy.size,), 1.003)):
            assert not torch.equal(model(input_ids=TOKENS).logits, plain)
        with gated(model, anatomy, torch.full((anatomy.size,), 1.003, dtype=torch.bfloat16)):
            assert torch.equal(model(input_ids=TOKENS).logits, plain)
