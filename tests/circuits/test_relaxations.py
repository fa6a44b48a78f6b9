"""Relaxations and penalties: the paper's mask as a special case, expectations by sampling, sizes that are reached."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import tiny_world
from cca.circuits.dcm import MaskSettings, train_mask
from cca.circuits.relaxations import RELAXATIONS, Annealed, HardConcrete, relaxation
from cca.circuits.target_size import DualPenalty, FixedPenalty
from cca.errors import CcaError
from cca.gradients.pivot_forward import PivotForward
from cca.models.anatomy.anatomy import anatomy_of

CPU = torch.device("cpu")


def test_clamp_with_a_fixed_penalty_is_the_papers_mask() -> None:
    model, pivots = tiny_world.model(), tiny_world.pivots(6)
    anatomy = anatomy_of(model)
    settings = MaskSettings(epochs=12, batch_size=4, learning_rate=0.2, penalty=0.02)
    forward = PivotForward(model, anatomy, pivots, settings.batch_size)
    mask = train_mask(forward, settings)

    gates = torch.ones(anatomy.size, dtype=torch.float64, requires_grad=True)
    adam, order = torch.optim.Adam([gates], lr=0.2), torch.Generator().manual_seed(0)
    rate = torch.optim.lr_scheduler.StepLR(adam, 5, 0.9)
    for _ in range(12):
        for batch in torch.randperm(forward.batches, generator=order).tolist():
            adam.zero_grad()
            (0.02 * gates.abs().sum() - forward.gaps(batch, 2 * gates).mean()).backward()
            adam.step()
            gates.data.clamp_(0, 1)
        rate.step()
    torch.testing.assert_close(mask.gates, gates.detach())
    assert 0 == float(mask.gates.min()) < float(mask.gates.max()) <= 1


def test_hard_concrete_size_is_the_share_of_draws_that_are_not_zero() -> None:
    made = HardConcrete(4, 0.5, torch.float64, CPU)
    with torch.no_grad():
        made.parameters.copy_(torch.tensor([-3.0, -1.0, 0.5, 2.0]))
        generator = torch.Generator().manual_seed(0)
        draws = torch.stack([made.gates(0.0, generator) for _ in range(4000)])
    torch.testing.assert_close((draws > 0).double().mean(0), made.sizes(0.0).detach(), rtol=0.0, atol=0.03)
    assert ((draws == 0) | (draws == 1)).any(), "some draws are exactly closed or open"


def test_annealed_gates_end_binary() -> None:
    made = Annealed(3, 0.5, torch.float64, CPU)
    with torch.no_grad():
        made.parameters.copy_(torch.tensor([-0.5, 0.45, 0.6]))
    generator = torch.Generator()
    assert float((made.gates(0.0, generator).detach() - 0.5).abs().max()) < 0.3
    torch.testing.assert_close(
        made.gates(1.0, generator).round(), made.gates(1.0, generator), rtol=0, atol=0.02
    )
    torch.testing.assert_close(made.final(), made.gates(1.0, generator).detach())


@pytest.mark.parametrize("name", list(RELAXATIONS))
@pytest.mark.parametrize("initial", [0.0, 0.4, 1.0])
def test_gates_start_where_they_are_told_to(name: str, initial: float) -> None:
    made = relaxation(name, 5, initial, torch.float64)
    start = made.parameters.detach().sigmoid() if name == "annealed" else made.final()
    assert float((start - initial).abs().max()) <= 0.051
    with pytest.raises(CcaError, match="relaxation: expected one of clamp"):
        relaxation("gumbel", 5, initial, torch.float64)


class LinearGap:
    """A stand-in whose gap is the sum of what each component is worth times its factor."""

    def __init__(self, worth: torch.Tensor) -> None:
        self.model, self.worth, self.batches = tiny_world.model(dtype=torch.float32), worth, 1
        self.anatomy = anatomy_of(self.model)
        self.last = torch.zeros(1, 1)

    def gaps(self, batch: int, factors: torch.Tensor) -> torch.Tensor:
        del batch
        return (self.worth * factors).sum()[None]


@pytest.mark.parametrize(("name", "target"), [("clamp", 5), ("clamp", 40), ("hard-concrete", 40)])
def test_dual_ascent_reaches_the_size_with_the_components_worth_most(name: str, target: int) -> None:
    size = anatomy_of(tiny_world.model()).size
    worth = torch.linspace(0.01, 1.0, size)
    forward: Any = LinearGap(worth)
    settings = MaskSettings(
        gate="amplify", epochs=500, learning_rate=0.05, decay_every=100, decay=0.6, initial=0.5
    )
    mask = train_mask(forward, settings, name, DualPenalty(target, start=0.01))
    chosen = mask.circuit(forward.anatomy, 0.5)
    assert len(chosen) == pytest.approx(target, abs=0.1 * target)
    best = {forward.anatomy.component(place) for place in worth.topk(target).indices.tolist()}
    assert len(best & set(chosen.components)) >= 0.8 * target


@pytest.mark.parametrize("name", list(RELAXATIONS))
def test_a_fixed_penalty_keeps_what_is_worth_more_than_it(name: str) -> None:
    worth = torch.linspace(0.0, 1.0, anatomy_of(tiny_world.model()).size)
    forward: Any = LinearGap(worth)
    settings = MaskSettings(gate="amplify", epochs=300, learning_rate=0.05, decay_every=100, initial=0.5)
    gates = train_mask(forward, settings, name, FixedPenalty(0.4)).gates
    # a hard-concrete gate's size is its chance of not being 0, not its value
    clear = (worth - 0.4).abs() > 0.25
    assert torch.equal((gates > 0.5)[clear], (worth > 0.4)[clear])


def test_the_penalty_rises_while_too_large_and_falls_while_too_small() -> None:
    penalty = DualPenalty(target=10, start=0.1)
    penalty.update(20)
    high = penalty.value
    penalty.update(2)
    assert high > 0.1 > 0
    assert penalty.value < high
    with pytest.raises(ValueError, match="above 0"):
        DualPenalty(target=0, start=0.1)
