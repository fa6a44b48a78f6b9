"""compare.yaml: axes, presets, keys, and one line for anything that cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cca.compare.config import CompareConfig, arms_of, compare_config, load_compare
from cca.compare.pipeline import cells_of
from cca.errors import CcaError

EXAMPLE = Path(__file__).parents[2] / "examples" / "compare.yaml"


def config(**changes: Any) -> CompareConfig:
    given = {"out": "o", "models": [{"model": "tinymath"}], "arms": [{"name": "a"}]}
    return compare_config({**given, **changes})


def test_every_combination_of_axes_is_an_arm_named_by_what_varies() -> None:
    arm = {
        "name": "grid", "pivots": [25, 50],
        "set": {"circuit.size": [10, 30], "amplify.objective": "softplus", "circuit.kinds": ["q", "neuron"]},
    }  # fmt: skip
    arms = arms_of(config(arms=[arm]))
    assert [a.label for a in arms] == [
        "grid size=10 pivots=25", "grid size=10 pivots=50", "grid size=30 pivots=25", "grid size=30 pivots=50",
    ]  # fmt: skip
    made = config(arms=[arm])
    run = arms[2].run_config(made, made.models[0], 7, Path("w"))
    assert (run.circuit.size, run.circuit.kinds, run.seed) == (30, ("q", "neuron"), 7)


def test_a_preset_arm_is_that_presets_circuit_and_amplify_on_shared_traces() -> None:
    made = config(
        base={"traces": {"samples": 3}}, arms=[{"name": "p", "preset": "paper", "set": {"circuit.epochs": 2}}]
    )
    run = arms_of(made)[0].run_config(made, made.models[0], 0, Path("w"))
    assert (run.circuit.localiser, run.circuit.epochs, run.amplify.coefficient) == ("dcm", 2, 1e-4)
    assert (run.traces.samples, run.traces.templates_below) == (3, None)


def test_controls_follow_their_arm_and_rows_are_told_apart_by_content_alone() -> None:
    made = config(
        arms=[{"name": "a", "controls": {"random": 2, "random_layers": 1}}, {"name": "b", "set": {"circuit.size": 9}}]
    )
    cells = list(cells_of(made, made.models[0], 0))
    assert [(c.label, c.control and c.control.draw) for c in cells] == [
        ("a", None), ("a: random", 1), ("a: random", 2), ("a: random-layers", 1), ("b", None),
    ]  # fmt: skip
    assert len({c.key for c in cells}) == 5
    renamed = config(out="elsewhere", arms=[{"name": "other", "controls": {"random": 2}}])
    again = list(cells_of(renamed, renamed.models[0], 0))
    assert [c.key for c in again] == [c.key for c in cells[:3]], "names and folders make no new work"
    elsewhere = config(base={"device": "cpu", "trackers": ["wandb"], "vllm": {"memory": 0.5}, "ray": {"actors": 3}})
    assert next(iter(cells_of(elsewhere, made.models[0], 0))).key == cells[0].key, "nor does where it is computed"
    assert next(iter(cells_of(made, made.models[0], 1))).key != cells[0].key


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"armz": []}, "unknown compare key 'armz'; did you mean 'arms'"),
        ({"arms": [{"name": "a", "set": {"circuit.sizes": 3}}]}, "unknown config key 'circuit.sizes'"),
        ({"arms": [{"name": "a", "set": {"traces.samples": 3}}]}, "may set circuit, amplify, pivots keys"),
        ({"arms": [{"name": "a", "baseline": "loro"}]}, "must be one of lora-pivots"),
        ({"arms": [{"name": "a", "baseline": "lora-gold", "options": {"ranks": 4}}]}, "'ranks'; did you mean 'rank'"),
        ({"arms": [{"name": "a"}, {"name": "a"}]}, "names that differ"),
        ({"matched": {"reference": "z"}}, "expected the name of an arm, got 'z'"),
        ({"seeds": []}, "compare key 'seeds'"),
        ({"arms": [{"name": "a", "set": {"circuit.localiser": "guess"}}]}, "expected one of attribution"),
        ({"base": {"traces.sample": 3}}, "unknown config key 'traces.sample'"),
    ],
)  # fmt: skip
def test_faults_end_in_one_line_naming_the_key(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(CcaError, match=told) as caught:
        config(**changes)
    assert "\n" not in str(caught.value)


def test_the_example_is_sound() -> None:
    names = {arm.entry for arm in arms_of(load_compare(EXAMPLE))}
    assert {"default", "no mask", "paper", "lora"} <= names


def test_a_file_that_is_no_yaml_mapping_is_refused(tmp_path: Path) -> None:
    for text in ("- a\n", "a: [", "\x00"):
        (tmp_path / "c.yaml").write_text(text)
        with pytest.raises(CcaError, match=r"expected (YAML|keys)"):
            load_compare(tmp_path / "c.yaml")
    with pytest.raises(CcaError, match="no such file"):
        load_compare(tmp_path / "none.yaml")
