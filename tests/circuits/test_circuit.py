"""The Circuit noun: sets, shares, the file and its refusals; and the circuits nobody located."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import tiny_world
from cca.circuits.circuit import Circuit, load_circuit, random_circuit, save_circuit, shares, whole_model
from cca.errors import CcaError
from cca.models.anatomy.anatomy import Anatomy, anatomy_of
from cca.models.anatomy.components import KINDS, Component

Q, K, N3, N7 = (Component(0, "q", 1), Component(1, "k", 0), Component(0, "neuron", 3), Component(1, "neuron", 7))


@pytest.fixture(scope="module")
def anatomy() -> Anatomy:
    return anatomy_of(tiny_world.model())


def test_components_are_sorted_and_unique_and_only_theirs_are_scored() -> None:
    circuit = Circuit.of([N7, Q, N7, K], "test", {Q: 2, N3: 9.0})
    assert circuit.components == tuple(sorted([Q, K, N7]))
    assert circuit.scores == {Q: 2.0}
    assert [circuit.count(kind) for kind in KINDS] == [1, 1, 0, 1]
    assert circuit.fingerprint == Circuit.of([K, Q, N7], "other").fingerprint != Circuit.of([Q], "t").fingerprint


def test_set_algebra_keeps_the_scores_of_the_left() -> None:
    left, right = Circuit.of([Q, N3], "a", {Q: 1, N3: 2}), Circuit.of([N3, N7], "b", {N3: 5, N7: 6})
    assert (left | right).components == tuple(sorted([Q, N3, N7]))
    assert (left | right).scores == {Q: 1, N3: 2, N7: 6}
    assert ((left & right).components, (left & right).scores) == ((N3,), {N3: 2})
    assert ((left - right).components, (left - right).method) == ((Q,), "(a - b)")


def test_shares_by_hand(anatomy: Anatomy) -> None:
    found = shares(Circuit.of([Q, K, N3, N7], "test"), anatomy)
    rows = 8 * 32 + 8 * 32 + 2 * 32  # two heads of dimension 8 and two up rows, of 32 inputs
    assert found == {
        "components": 4 / 112,
        "heads": 2 / 16,
        "neurons": 2 / 96,
        "parameters": rows / anatomy.total_parameters,
    }
    everything = shares(whole_model(anatomy), anatomy, "full")
    assert (everything["components"], everything["heads"], everything["neurons"]) == (1, 1, 1)
    assert set(shares(Circuit.of([], "none"), anatomy).values()) == {0}


def test_a_random_circuit_has_the_same_mix_and_its_own_draw(anatomy: Anatomy) -> None:
    like = Circuit.of([*list(anatomy.components(["q"]))[:3], K, *list(anatomy.components(["neuron"]))[:20]], "x")
    drawn = [random_circuit(anatomy, like, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    for circuit in drawn:
        assert [circuit.count(kind) for kind in KINDS] == [like.count(kind) for kind in KINDS] == [3, 1, 0, 20]
        assert not circuit.scores
        anatomy.rows(circuit.components)  # they exist
    assert drawn[0] == drawn[1] != drawn[2]
    reached = {
        c for seed in range(60) for c in random_circuit(anatomy, like, torch.Generator().manual_seed(seed)).components
    }
    assert len({c for c in reached if c.kind == "neuron"}) == 96  # the whole model is drawn from


def test_a_circuit_reads_back_as_it_was(tmp_path: Path, anatomy: Anatomy) -> None:
    for circuit in (
        Circuit.of([Q, K, N3], "dcm", {Q: 0.1 + 0.2, N3: -1e-30}),
        Circuit.of([], "none"),
        whole_model(anatomy),
    ):
        save_circuit(tmp_path / "circuit.jsonl", circuit, made_from="abc")
        assert load_circuit(tmp_path / "circuit.jsonl") == circuit


def test_a_score_that_is_not_finite_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(CcaError, match=r"L0\.q1: expected a finite score, got nan"):
        save_circuit(tmp_path / "circuit.jsonl", Circuit.of([Q], "dcm", {Q: float("nan")}))
    assert not (tmp_path / "circuit.jsonl").exists()


HEADER = {"format": "cca.circuit", "version": 1, "method": "dcm"}
BAD_ROWS = {
    "rows with a component and its score": [{}, {"component": 3}, {"component": "L" + "9" * 5000 + ".q1"}],
    "expected a number as its score": [
        {"component": "L0.q1", "score": "1"},
        {"component": "L0.q1", "score": True},
        {"component": "L0.q1", "score": [1] * 100},
    ],
    "expected a finite score": [
        {"component": "L0.q1", "score": float("nan")},
        {"component": "L0.q1", "score": float("-inf")},
        {"component": "L0.q1", "score": 10**400},
    ],
    "expected a name such as": [
        {"component": "L0.o1"},
        {"component": "L-1.q1"},
        {"component": "L0.q1 "},
        {"component": "L0.q1\n"},
    ],
}


@pytest.mark.parametrize(("message", "row"), [(m, row) for m, rows in BAD_ROWS.items() for row in rows])
def test_a_wrong_row_is_refused_in_one_line(tmp_path: Path, message: str, row: dict) -> None:
    path = tmp_path / "circuit.jsonl"
    path.write_text(f"{json.dumps(HEADER)}\n{json.dumps(row)}\n")
    with pytest.raises(CcaError, match=message) as refusal:
        load_circuit(path)
    assert "\n" not in str(refusal.value)
    assert str(path) in str(refusal.value)
    assert len(str(refusal.value)) < 600


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a cca.circuit file"),
        ('{"format": "cca.pivots", "version": 1}\n', "expected a cca.circuit file"),
        ('{"format": "cca.circuit", "version": 2}\n', "format version 1 to 1, got 2"),
        ('{"format": "cca.circuit"}\n', "format version 1 to 1, got None"),
        ('{"format": "cca.circuit", "version": 1, "method": 3}\n', "method to be a text"),
        ("not json\n", "line 1: expected a JSON object"),
        (json.dumps(HEADER) + '\n{"component": "L0.q1"', "line 2: expected a JSON object"),
        (json.dumps(HEADER) + '\n{"component": "L0.q1"}\n{"component": "L0.q1"}\n', "every component once"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "circuit.jsonl"
    path.write_text(text)
    with pytest.raises(CcaError, match=message):
        load_circuit(path)


def test_a_circuit_of_another_model_is_refused_where_its_rows_are_asked_for(tmp_path: Path, anatomy: Anatomy) -> None:
    save_circuit(tmp_path / "circuit.jsonl", Circuit.of([Component(7, "q", 0)], "dcm"))
    with pytest.raises(CcaError, match=r"component L7\.q0: this llama model has 2 layers"):
        anatomy.rows(load_circuit(tmp_path / "circuit.jsonl").components)
