"""A mask's training that was stopped between two epochs goes on to the same gates, to the bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import tiny_world
from cca.circuits.dcm import Mask, MaskSettings, train_mask
from cca.circuits.relaxations import RELAXATIONS
from cca.circuits.target_size import DualPenalty, Penalty
from cca.gradients.pivot_forward import PivotForward
from cca.gradients.training_state import Keeper
from cca.models.anatomy.anatomy import anatomy_of
from cca.runs.folder.training_file import KeptState

SETTINGS = MaskSettings(epochs=7, batch_size=2, learning_rate=0.1, decay_every=2, penalty=0.02, initial=0.6)


class Killed(Exception):
    pass


class Counted:
    """The forward of some pivots; told to, it dies in the midst of an epoch."""

    def __init__(self) -> None:
        model = tiny_world.model(dtype=torch.float32)
        self.forward = PivotForward(model, anatomy_of(model), tiny_world.pivots(6), SETTINGS.batch_size)
        self.calls, self.last = 0, 10**9

    def gaps(self, batch: int, factors: Tensor) -> Tensor:
        if self.calls == self.last:
            raise Killed
        self.calls += 1
        return self.forward.gaps(batch, factors)

    def train(self, relaxation: str, aimed: bool, keeper: Keeper | None = None) -> Mask:
        penalty: Penalty | None = DualPenalty(20, start=0.02) if aimed else None
        return train_mask(self.forward, SETTINGS, relaxation, penalty, gaps_of=self.gaps, keeper=keeper)


def kept(folder: Path) -> KeptState:
    return KeptState(folder / "mask", "these pivots", lambda: None)


@pytest.mark.parametrize("aimed", [False, True], ids=["fixed penalty", "penalty for a size"])
@pytest.mark.parametrize("relaxation", list(RELAXATIONS))
def test_a_stopped_training_goes_on_to_the_same_gates(relaxation: str, aimed: bool, tmp_path: Path) -> None:
    unbroken = Counted()
    expected = unbroken.train(relaxation, aimed)
    batches = unbroken.forward.batches
    again = Counted()
    for epochs in (1, 4):  # each time killed in the middle of the next one
        again.last = again.calls + (epochs if epochs == 1 else 3) * batches + 1
        with pytest.raises(Killed):
            again.train(relaxation, aimed, kept(tmp_path))
    again.last = 10**9
    mask = again.train(relaxation, aimed, kept(tmp_path))
    assert torch.equal(mask.gates, expected.gates)
    assert mask.gaps == expected.gaps
    assert again.calls == unbroken.calls + 2, "two batches were lost to kills, and no epoch"
    assert torch.equal(again.train(relaxation, aimed, kept(tmp_path)).gates, expected.gates)
    assert again.calls == unbroken.calls + 2, "a finished training has nothing left to do"
