"""On every architecture: the gradient of the rows equals dense autograd over whole prompts; nothing else has one."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from doubles import in_double
from torch import Tensor
from transformers import PreTrainedModel
from zoo import TINY, VOCABULARY, whole_gaps

import tiny_world
from cca.circuits.circuit import Circuit
from cca.gradients.pivot_gradient import MIN_SHARED, OBJECTIVES, add_pivot_gradient
from cca.gradients.trainable_rows import TrainableRows
from cca.models.anatomy.anatomy import Anatomy, anatomy_of
from cca.models.anatomy.components import KINDS
from cca.models.anatomy.weight_rows import get_rows
from cca.pivots.pivot import Pivot

SHARED = torch.randint(3, VOCABULARY, (MIN_SHARED + 3,), generator=torch.Generator().manual_seed(6)).tolist()
SOFTPLUS = OBJECTIVES["softplus"]


@pytest.fixture(scope="module", params=list(TINY))
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    model = tiny_world.model(request.param)
    model.set_experts_implementation("eager")  # the default, grouped_mm, has no float64 kernel
    return model


@pytest.fixture(scope="module")
def anatomy(model: PreTrainedModel) -> Anatomy:
    return anatomy_of(model)


@pytest.mark.parametrize("shared", [(), SHARED], ids=["own prompts", "shared examples"])
def test_row_gradients_equal_dense_autograd(model: PreTrainedModel, anatomy: Anatomy, shared: Sequence[int]) -> None:
    pivots, circuit = tiny_world.pivots(3, shared=shared), some_of_each_layer(anatomy)
    with in_double():
        losses, dense = dense_gradients(model, pivots)
        for mode in ("paper", "full"):
            rows = TrainableRows(model, anatomy.rows(circuit.components, mode))
            loss, _ = add_pivot_gradient(model, anatomy, rows, pivots, SOFTPLUS, batch_size=2)
            assert loss == pytest.approx(losses, rel=1e-12)
            for key, master in rows.masters.items():
                assert master.grad is not None, key
                expected = get_rows(dense[key[0]], key[1], rows.rows[key].indices)
                scale = float(dense[key[0]].abs().max())
                torch.testing.assert_close(master.grad, expected, rtol=1e-10, atol=1e-10 * max(1, scale), msg=str(key))
                assert key[0].endswith("bias") or float(master.grad.abs().max()) > 1e-7, key
    assert all(p.grad is None and not p.requires_grad for p in model.parameters())


def test_a_step_computes_with_the_masters(model: PreTrainedModel, anatomy: Anatomy) -> None:
    """The same objective whether moved rows are active beside the weights or written into them."""
    pivots, circuit = tiny_world.pivots(2, shared=SHARED), some_of_each_layer(anatomy)
    with in_double():
        rows = TrainableRows(model, anatomy.rows(circuit.components, "full"))
        base, _ = dense_gradients(model, pivots)
        with torch.no_grad():
            for master in rows.masters.values():
                master.mul_(1.1).add_(0.02)
        active, _ = add_pivot_gradient(model, anatomy, rows, pivots, SOFTPLUS, batch_size=1)
        with rows.written():
            written, _ = dense_gradients(model, pivots)
    assert active == pytest.approx(written, rel=1e-11)
    assert abs(active - base) > 1e-3


def some_of_each_layer(anatomy: Anatomy) -> Circuit:
    """A third of the components of each kind in each layer."""
    generator = torch.Generator().manual_seed(3)
    chosen = []
    for layer in anatomy.layers:
        for kind in KINDS:
            count = anatomy.count(layer.index, kind)
            drawn = torch.randperm(count, generator=generator)[: -(-count // 3)] + anatomy.span(layer.index, kind).start
            chosen += [anatomy.component(index) for index in drawn.tolist()]
    return Circuit.of(chosen, "test")


def dense_gradients(model: PreTrainedModel, pivots: Sequence[Pivot]) -> tuple[float, dict[str, Tensor]]:
    """The mean objective and its gradient for every parameter, each prompt run whole and alone."""
    model.requires_grad_(True)
    loss = SOFTPLUS(whole_gaps(model, pivots)).mean()
    names = [name for name, _ in model.named_parameters()]
    gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True, materialize_grads=True)
    model.requires_grad_(False)
    return float(loss.detach()), dict(zip(names, gradients, strict=True))
