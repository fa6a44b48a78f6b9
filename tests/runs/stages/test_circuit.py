"""The circuit stage of a run: every localiser by one way, with half the batch where memory is short."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import tiny_run
import tiny_world
from cca.circuits.circuit import Circuit
from cca.pivots.pivot import save_pivots
from cca.runs.config import load_config
from cca.runs.folder.run_folder import RunFolder
from cca.runs.open import OpenRun
from cca.runs.pipeline import make_circuit
from cca.runs.progress import NoProgress
from little_memory import room_for

PIVOTS = tiny_world.pivots(13)


class Noted(NoProgress):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_run.make(tmp_path_factory.mktemp("world")).parent


def located(folder: Path, rows: int | None = None, **circuit: Any) -> tuple[Circuit, list[str]]:
    """The circuit, with memory for so many rows, and what was said of it."""
    config, progress = load_config(tiny_run.write_config(folder, circuit=circuit)), Noted()
    shutil.rmtree(folder / "run", ignore_errors=True)
    (folder / "run").mkdir()
    run_folder = RunFolder(folder / "run")
    run_folder.begin(config, {})
    save_pivots(folder / "run" / "pivots.jsonl", PIVOTS)
    run = OpenRun(config, run_folder, progress)
    with room_for(run.model, rows or len(PIVOTS)):
        return make_circuit(run, PIVOTS), progress.said


@pytest.mark.parametrize("how", [{}, {"relaxation": "hard-concrete"}, {"penalty_for": "size", "size": 9}], ids=str)
def test_a_mask_goes_on_with_half_the_batch(folder: Path, how: dict[str, Any]) -> None:
    mask = {"localiser": "dcm", "epochs": 12, "learning_rate": 0.05, **how}
    found, said = located(folder, 3, batch_size=8, **mask)
    expected, _ = located(folder, batch_size=2, **mask)
    assert found == expected
    assert found != located(folder, batch_size=8, **mask)[0], "a batch that changes no gate tests nothing"
    assert [line for line in said if "memory" in line] == [
        f"circuit: dcm (its batch is also the pivots of a step): out of memory with a batch of {size}; "
        f"going on with {size // 2}"
        for size in (8, 4)
    ]


@pytest.mark.parametrize("localiser", ["attribution", "natural", "selective", "attribution | natural"])
def test_what_does_not_depend_on_the_batch_is_found_with_half_of_it(folder: Path, localiser: str) -> None:
    found, said = located(folder, 4, localiser=localiser, size=6)
    assert set(found.components) == set(located(folder, localiser=localiser, size=6)[0].components)
    assert said[-1] == f"circuit: {localiser}: out of memory with a batch of 8; going on with 4"
