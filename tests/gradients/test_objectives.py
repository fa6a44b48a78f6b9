"""Objectives and anchor: values and pulls, and gradients against whole prompts and finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from doubles import in_double
from torch import Tensor
from transformers import PreTrainedModel
from zoo import whole_gaps

import tiny_world
from cca.errors import CcaError
from cca.gradients.pivot_gradient import OBJECTIVES, KLAnchor, add_pivot_gradient, make_objective
from cca.gradients.trainable_rows import TrainableRows
from cca.models.anatomy.anatomy import Anatomy, anatomy_of
from cca.models.anatomy.components import Component
from cca.pivots.pivot import Pivot

GAPS = torch.tensor([-200.0, -1.0, 0.0, 2.0, 200.0], dtype=torch.float64)
TEXTS = [((5, 6, 7), (8, 9)), ((9, 8), (7, 6, 5)), ((3,), (4, 5, 6))]
CIRCUIT = [Component(0, "neuron", 3), Component(1, "neuron", 9), Component(0, "q", 1)]


def logits(model: PreTrainedModel, tokens: tuple[int, ...]) -> Tensor:
    return model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0]


def naive_losses(model: PreTrainedModel, pivots: list[Pivot], name: str, base: list[float]) -> Tensor:
    losses = []
    for pivot, base_gap in zip(pivots, base, strict=True):
        log_p = logits(model, pivot.tokens)[-1].log_softmax(-1)
        gap = log_p[pivot.desired] - log_p[pivot.undesired]
        losses.append(-log_p[pivot.desired] if name == "cross-entropy" else -torch.sigmoid(2 * (gap - base_gap)).log())
    return torch.stack(losses)


def naive_kl(model: PreTrainedModel, base: list[Tensor]) -> Tensor:
    total, tokens = torch.zeros((), dtype=torch.float64), 0
    for (prompt, solution), before in zip(TEXTS, base, strict=True):
        now = logits(model, prompt + solution)[len(prompt) - 1 : -1].log_softmax(-1)
        total = total + (before.exp() * (before - now)).sum()
        tokens += len(solution)
    return total / tokens


def said(model: PreTrainedModel) -> list[Tensor]:
    return [logits(model, p + s)[len(p) - 1 : -1].log_softmax(-1).detach() for p, s in TEXTS]


def moved(anatomy: Anatomy, model: PreTrainedModel) -> TrainableRows:
    """Rows that have left the untouched model, so that anchor and reference matter."""
    rows = TrainableRows(model, anatomy.rows(CIRCUIT))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for master in rows.masters.values():
            master += 0.3 * torch.randn(master.shape, generator=generator, dtype=master.dtype)
    return rows


@pytest.mark.parametrize("anchored", [False, True], ids=["free", "anchored"])
@pytest.mark.parametrize("name", ["cross-entropy", "dpo"])
def test_gradients_are_finite_differences_of_the_definition(name: str, anchored: bool) -> None:
    model, pivots, step = tiny_world.model(), tiny_world.pivots(5), 1e-5
    anatomy = anatomy_of(model)
    with in_double():
        base, before = whole_gaps(model, pivots).tolist(), said(model)
        objective = make_objective(name, model, anatomy, pivots, beta=2.0)
        anchor = KLAnchor(model, TEXTS, weight=3.0, batch_size=2) if anchored else None
        rows = moved(anatomy, model)

        def value() -> float:
            with torch.no_grad(), rows.written():
                kl = 3.0 * naive_kl(model, before) if anchored else 0.0
                return float(naive_losses(model, pivots, name, base).mean() + kl)

        loss, _ = add_pivot_gradient(model, anatomy, rows, pivots, objective, 2)
        loss += anchor.add_gradient(rows) if anchor else 0.0
        assert loss == pytest.approx(value(), rel=1e-9)
        for master in rows.masters.values():
            assert master.grad is not None
            along = torch.randn(master.shape, generator=torch.Generator().manual_seed(1), dtype=master.dtype)
            ends = []
            for sign in (1, -1):
                with torch.no_grad():
                    master += sign * step * along
                ends.append(value())
                with torch.no_grad():
                    master -= sign * step * along
            slope = (ends[0] - ends[1]) / (2 * step)
            assert float((master.grad * along).sum()) == pytest.approx(slope, rel=1e-5, abs=1e-8)


def test_the_anchor_is_silent_at_the_untouched_model() -> None:
    model = tiny_world.model()
    anatomy = anatomy_of(model)
    rows = TrainableRows(model, anatomy.rows(CIRCUIT))
    anchor = KLAnchor(model, TEXTS, weight=1.0)
    assert anchor.add_gradient(rows) == pytest.approx(0.0, abs=1e-12)
    assert all(float(master.grad.abs().max()) < 1e-12 for master in rows.masters.values() if master.grad is not None)
    with pytest.raises(CcaError, match="add retention sets"):
        KLAnchor(model, [], weight=1.0)


def test_unknown_names_are_refused() -> None:
    model = tiny_world.model()
    with pytest.raises(CcaError, match=r"expected one of logit-gap, softplus, cross-entropy, dpo, got 'ppo'"):
        make_objective("ppo", model, anatomy_of(model), tiny_world.pivots(2))


def pull(name: str) -> Tensor:
    """d loss / d gap of each gap."""
    gaps = GAPS.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(OBJECTIVES[name](gaps).sum(), gaps)
    return gradient


def test_the_logit_gap_pulls_for_ever() -> None:
    assert torch.equal(OBJECTIVES["logit-gap"](GAPS), -GAPS)
    assert pull("logit-gap").tolist() == [-1.0] * 5


def test_softplus_is_the_loss_of_choosing_between_the_two_tokens() -> None:
    losses = OBJECTIVES["softplus"](GAPS)
    for gap, loss in zip(GAPS.tolist()[1:4], losses.tolist()[1:4], strict=True):
        assert loss == pytest.approx(-math.log(1 / (1 + math.exp(-gap))))
    assert losses[0] == 200
    assert losses[-1] < 1e-80  # of a wide gap neither loss nor pull is left, and nothing overflows
    assert pull("softplus").tolist() == pytest.approx([-1.0, -0.7310586, -0.5, -0.1192029, 0.0], abs=1e-7)
