"""cca: raise one skill of an open-weight language model by editing few of its weights.

Each stage is a function on a loaded `transformers` model; docs/reference/python.md shows them in order.
Names are imported on first use, so that ``import cca`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

HOMES = {
    "CcaError": "cca.errors",
    "Problem": "cca.problems.problem",
    "read_problems": "cca.problems.problem",
    "make_judge": "cca.problems.judges",
    "load_model": "cca.models.loading",
    "anatomy_of": "cca.models.anatomy.anatomy",
    "Grader": "cca.pivots.traces",
    "gated": "cca.models.forward.gates",
    "HFEngine": "cca.engines.hf",
    "TracesConfig": "cca.pivots.settings",
    "PivotsConfig": "cca.pivots.settings",
    "greedy_traces": "cca.pivots.traces",
    "sample_traces": "cca.pivots.traces",
    "opposite": "cca.pivots.traces",
    "pair_traces": "cca.pivots.find",
    "find_pivots": "cca.pivots.find",
    "Circuit": "cca.circuits.circuit",
    "load_circuit": "cca.circuits.circuit",
    "gate_gradient": "cca.circuits.attribution",
    "attribution_circuit": "cca.circuits.attribution",
    "Size": "cca.circuits.settings",
    "CircuitConfig": "cca.circuits.settings",
    "Site": "cca.circuits.localisers",
    "random_circuit": "cca.circuits.circuit",
    "AmplifyConfig": "cca.amplify.settings",
    "Validation": "cca.amplify.amplify",
    "Patch": "cca.patches.patch",
    "load_patch": "cca.patches.patch_file",
    "save_patch": "cca.patches.patch_file",
    "DriftProbe": "cca.evaluation.retention",
    "load_config": "cca.runs.config",
    "make_config": "cca.runs.config",
    "run": "cca.runs.pipeline",
}

__all__ = sorted(HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module 'cca' has no attribute {name!r}")
    return getattr(import_module(HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
