"""Steps that were stopped between two validations go on to the same rows, to the bit, and none is taken again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import tiny_world
from cca.amplify.amplify import Amplified, StepRecord, Validation, amplify
from cca.amplify.settings import AmplifyConfig
from cca.gradients.pivot_gradient import add_pivot_gradient
from cca.gradients.training_state import TrainingFile
from cca.models.anatomy.anatomy import anatomy_of
from tiny_steps import CIRCUIT, PIVOTS

VERDICTS = [(0.5, True), (0.6, True), (0.9, False), (0.9, False), (0.8, True), (0.7, True), (0.7, True)]


class Killed(Exception):
    pass


class Sitting:
    """One process's part of the steps: after so many gradients and validations it dies, at the start of the next.

    ``judged`` are the rows judged by all sittings so far; a verdict is given by how many there were before.
    """

    def __init__(self, judged: list[bytes], calls: int = 10**9) -> None:
        self.model = tiny_world.model(dtype=torch.float32)
        self.judged, self.calls = judged, calls
        self.told: list[StepRecord] = []

    def __call__(self, state: TrainingFile | None, **settings: Any) -> Amplified:
        anatomy, wanted = anatomy_of(self.model), AmplifyConfig(**settings)
        rows = anatomy.rows(CIRCUIT.components)

        def add(*args: Any, **options: Any) -> tuple[float, float]:
            self._live()
            return add_pivot_gradient(*args, **options)

        def validate() -> Validation:
            self._live()
            weight = self.model.get_parameter(rows[0].parameter).detach()
            accuracy, in_budget = VERDICTS[min(len(self.judged), len(VERDICTS) - 1)]
            self.judged.append(weight.numpy().tobytes())
            return Validation(accuracy, 1.0, {"other": 0.25}, in_budget)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("cca.amplify.amplify.add_pivot_gradient", add)
            return amplify(
                self.model, anatomy, CIRCUIT, PIVOTS, wanted, validate, on_step=self.told.append, state=state
            )

    def _live(self) -> None:
        if not self.calls:
            raise Killed
        self.calls -= 1


@pytest.mark.parametrize(
    ("calls", "settings"),
    [
        (3, {"predicted_change": 0.01, "steps": 6, "patience": 4}),
        (3, {"predicted_change": 0.01, "steps": 9, "patience": 3}),
        (4, {"optimiser": "adam", "coefficient": 1e-3, "steps": 5}),
        (5, {"coefficient": 1e-2, "steps": 7, "validate_at": (2, 3, 6)}),
    ],
    ids=["halved", "patience", "adam", "sparse"],
)
def test_they_go_on_to_the_same_rows(calls: int, settings: dict[str, Any], tmp_path: Path) -> None:
    unbroken = Sitting([])
    expected = unbroken(None, **settings)
    assert expected.best_step > 0
    state = TrainingFile(tmp_path / "steps", "these pivots")
    judged: list[bytes] = []
    deaths, found = 0, None
    while found is None:
        sitting = Sitting(judged, calls)
        try:
            found = sitting(state, **settings)
        except Killed:
            deaths += 1
            assert deaths < 30
    assert deaths > 1, "a training that was hardly stopped tests little"
    assert judged == unbroken.judged, "each step once, the same to the bit"
    assert sitting.told == unbroken.told
    for name in ("history", "best_step", "coefficient", "stopped"):
        assert getattr(found, name) == getattr(expected, name)
    assert found.rows.keys() == expected.rows.keys()
    assert all(torch.equal(found.rows[key], rows) for key, rows in expected.rows.items())
    again = Sitting(judged, 1)(state, **settings)
    assert again.history == expected.history, "a finished training has at most an unjudged step left to take"
