"""report.json: what a run found, in one file that every later tool works from. Keys: docs/report.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cca.files import Row, fingerprint

FORMAT, VERSION = "cca.report", 1


def make_report(
    manifest: Mapping[str, Any],
    evaluation: Mapping[str, Any],
    amplify: Mapping[str, Any],
    timing: Mapping[str, Any],
) -> Row:
    """Accuracies are fractions in [0, 1], gains percentage points, drift nats a token.

    ``fingerprint`` is over what was run (configuration, model, task) and what came out, not over times.
    """
    measured = {
        key: value for key, value in evaluation.items() if key not in ("format", "version", "made_from")
    }
    inputs = {"config": manifest["config"], **manifest["fingerprints"]}
    return {
        "format": FORMAT,
        "version": VERSION,
        **measured,
        "amplify": {key: amplify[key] for key in ("best_step", "coefficient", "history")},
        "timing": dict(timing),
        "config": manifest["config"],
        "versions": manifest["versions"],
        "hardware": manifest["hardware"],
        "fingerprint": fingerprint({**inputs, "measured": measured}),
        "made_from": manifest["fingerprints"],
    }
