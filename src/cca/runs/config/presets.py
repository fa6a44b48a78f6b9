"""Presets: sets of defaults that run.yaml and ``--set`` go over."""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    # Published settings (arXiv 2512.16914): see docs/concepts.md for where each stands.
    "paper": {
        "traces": {"samples": 10, "temperature_when_right": 1.2, "temperature_when_wrong": 0.8, "templates_below": 0.8},
        "pivots": {"method": "branching"},
        "circuit": {
            "localiser": "dcm", "gate": "double", "learning_rate": 5e-3, "decay_every": 5, "decay": 0.9, "epochs": 50,
            "batch_size": 8, "penalty": 0.01, "initial": 1.0, "threshold": 0.5,
        },
        "amplify": {
            "objective": "logit-gap", "optimiser": "gradient-descent", "whitening": "none", "rows": "paper",
            "predicted_change": None,
            "coefficient": 1e-4, "steps": 100, "patience": 100,
            "validate_at": [2, 4, 6, 8, 10, *range(15, 101, 5)],
            "budget": {"points": 100.0, "drift": 1e9},
        },
    },
}  # fmt: skip
