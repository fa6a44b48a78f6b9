"""Relaxations: expectations by sampling, gates that end binary, where gates start."""

from __future__ import annotations

import pytest
import torch

from cca.circuits.dcm import RELAXATIONS, Annealed, HardConcrete


def test_hard_concrete_size_is_the_share_of_draws_that_are_not_zero() -> None:
    made = HardConcrete(4, 0.5, torch.float64)
    with torch.no_grad():
        made.parameters.copy_(torch.tensor([-3.0, -1.0, 0.5, 2.0]))
        generator = torch.Generator().manual_seed(0)
        draws = torch.stack([made.gates(0.0, generator) for _ in range(4000)])
    torch.testing.assert_close((draws > 0).double().mean(0), made.sizes(0.0).detach(), rtol=0.0, atol=0.03)
    assert ((draws == 0) | (draws == 1)).any(), "some draws are exactly closed or open"


def test_annealed_gates_end_binary() -> None:
    made = Annealed(3, 0.5, torch.float64)
    with torch.no_grad():
        made.parameters.copy_(torch.tensor([-0.5, 0.45, 0.6]))
    generator = torch.Generator()
    assert float((made.gates(0.0, generator).detach() - 0.5).abs().max()) < 0.3
    torch.testing.assert_close(made.gates(1.0, generator).round(), made.gates(1.0, generator), rtol=0, atol=0.02)
    torch.testing.assert_close(made.final(), made.gates(1.0, generator).detach())


@pytest.mark.parametrize("name", list(RELAXATIONS))
@pytest.mark.parametrize("initial", [0.0, 0.4, 1.0])
def test_gates_start_where_they_are_told_to(name: str, initial: float) -> None:
    made = RELAXATIONS[name](5, initial, torch.float64)
    start = made.parameters.detach().sigmoid() if name == "annealed" else made.final()
    assert float((start - initial).abs().max()) <= 0.051
