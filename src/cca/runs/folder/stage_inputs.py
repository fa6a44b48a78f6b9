"""What each stage of a run depends on: some keys of the configuration, some of the data, the files of stages before.

A stage's file says what it ``made_from``: the hash of exactly these. Resuming and forking ask the same question of a
file, whether that hash is still the one there should be; keys outside the list (``traces.batch_size``, ``device_map``)
change how fast a stage is, not what it makes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cca.files import fingerprint
from cca.patches.claims import without_claims
from cca.patches.patch_file import load_patch, to_bytes
from cca.runs.config.config import Config

PIVOTS_LOG = "pivots.partial.jsonl"
PATCH = "patch.safetensors"
MASK = "mask.partial.safetensors"
STEPS = "amplify.partial.safetensors"
CONTROL = "control.partial.safetensors"
UNDER_WAY = {MASK: "circuit.jsonl", STEPS: PATCH, CONTROL: "evaluation.json"}
"""Files that keep the state of a training, each with the file that the training makes."""


@dataclass(frozen=True)
class Stage:
    """``keys`` are dotted, a section's name stands for all of it. ``inputs`` are names of `Session.inputs`."""

    name: str
    files: tuple[str, ...]
    """What it makes; the last one is written last, so the stage is done when it is there."""
    keys: tuple[str, ...]
    inputs: tuple[str, ...]
    before: tuple[str, ...]
    """Files of earlier stages that it reads."""
    says: tuple[str, ...]
    """Those of its files, and the log it appends to while it runs, that say what they were made from."""


STAGES = {
    stage.name: stage
    for stage in (
        Stage(
            "traces", ("traces.jsonl",), (
                "judge", "seed", "traces.samples", "traces.temperature_when_right", "traces.temperature_when_wrong",
                "traces.templates_below", "traces.chunk",
            ),
            ("model", "tokenizer", "train", "judging", "max_new_tokens"), (), ("traces.jsonl",),
        ),
        Stage(
            "pivots", ("pivots_text.jsonl", "pivots.jsonl"), ("pivots",), (), ("traces.jsonl",),
            ("pivots.jsonl", PIVOTS_LOG),
        ),
        Stage(
            "circuit", ("circuit.jsonl",), ("circuit", "amplify.rows", "seed"),
            ("anatomy", "circuit_file", "retention"), ("pivots.jsonl",), ("circuit.jsonl",),
        ),
        Stage(
            "amplify", ("amplify.json", "patch.safetensors"), ("amplify",), ("anatomy", "validation", "retention"),
            ("pivots.jsonl", "circuit.jsonl"), ("amplify.json",),
        ),
        Stage(
            "evaluate", ("evaluation.json",), ("evaluate", "retention", "seed"), ("test",),
            ("amplify.json", "patch.safetensors"), ("evaluation.json",),
        ),
    )
}  # fmt: skip
"""In the order they run."""


def made_from(stage: Stage, config: Config, inputs: Mapping[str, Any], folder: Path) -> str:
    """The hash of all that ``stage`` depends on; the files before it must be in ``folder``."""
    keys = {key: _value(config, key) for key in stage.keys}
    data = {name: inputs[name] for name in stage.inputs}
    files = {name: content_hash(folder / name) for name in stage.before}
    return fingerprint([stage.name, keys, data, files])


def claim(path: Path) -> str | None:
    """What a stage's file says it was made from; None where it is not there, is damaged or does not say."""
    try:
        text = path.read_text(encoding="utf-8")
        header = json.loads(text if path.suffix == ".json" else text.partition("\n")[0])
    except (OSError, ValueError, RecursionError):
        return None
    return header.get("made_from") if isinstance(header, dict) else None


def content_hash(path: Path) -> str:
    """16 hex digits of the SHA-256 of a file; a patch is taken as it was before it claimed anything."""
    data = path.read_bytes()
    if path.name == PATCH:
        patch = load_patch(path)
        data = to_bytes(without_claims(patch)) if "claims" in patch.made_by else data
    return hashlib.sha256(data).hexdigest()[:16]


def _value(config: Config, key: str) -> Any:
    value: Any = config.model_dump(mode="json")
    for part in key.split("."):
        value = value[part]
    return value
