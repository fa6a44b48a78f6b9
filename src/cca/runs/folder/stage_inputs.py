"""Inputs of each stage: keys of the configuration, parts of the data, and files of earlier stages.

A stage's file holds ``made_from``, the hash of exactly these. Resuming and forking both check that the hash in the
file equals the present one. Keys outside the list (``traces.batch_size``, ``device_map``) change how fast a stage is,
not what it makes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cca.files import fingerprint
from cca.runs.config import Config

PIVOTS_LOG = "pivots.partial.jsonl"
PATCH = "patch.safetensors"
MASK = "mask.partial.safetensors"
STEPS = "amplify.partial.safetensors"
CONTROL = "control.partial.safetensors"
UNDER_WAY = {MASK: "circuit.jsonl", STEPS: PATCH, CONTROL: "evaluation.json"}
"""Files that keep the state of a training, each with the file that the training makes."""


@dataclass(frozen=True)
class Stage:
    """``keys`` are dotted; the name of a section stands for all of it. ``inputs`` are keys of `OpenRun.inputs`."""

    name: str
    files: tuple[str, ...]
    """The files that it makes; the last one is written last, so the stage is done when it is there."""
    keys: tuple[str, ...]
    inputs: tuple[str, ...]
    before: tuple[str, ...]
    """The files of earlier stages that it reads."""
    says: tuple[str, ...]
    """Its files that hold ``made_from``, and the log that it appends to while it runs."""


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
"""The stages in the order they run."""


def hash_inputs(stage: Stage, config: Config, inputs: Mapping[str, Any], folder: Path) -> str:
    """The hash of all that ``stage`` depends on; the files of earlier stages must be in ``folder``."""
    keys = {key: _value(config, key) for key in stage.keys}
    data = {name: inputs[name] for name in stage.inputs}
    files = {name: content_hash(folder / name) for name in stage.before}
    return fingerprint([stage.name, keys, data, files])


def made_from(path: Path) -> str | None:
    """The ``made_from`` of a stage's file; None where the file is not there, is damaged or holds none."""
    try:
        text = path.read_text(encoding="utf-8")
        header = json.loads(text if path.suffix == ".json" else text.partition("\n")[0])
    except (OSError, ValueError, RecursionError):
        return None
    return header.get("made_from") if isinstance(header, dict) else None


def content_hash(path: Path) -> str:
    """16 hex digits of the SHA-256 of a file.

    Reports of earlier versions wrote their claims into the patch of a finished run; such a patch is hashed without.
    """
    data = path.read_bytes()
    if path.name == PATCH and b"claims" in data[8 : 8 + int.from_bytes(data[:8], "little")]:
        data = _without_claims(path, data)
    return hashlib.sha256(data).hexdigest()[:16]


def _without_claims(path: Path, data: bytes) -> bytes:
    from cca.patches.claims import without_claims
    from cca.patches.patch_file import load_patch, to_bytes

    patch = load_patch(path)
    return to_bytes(without_claims(patch)) if "claims" in patch.made_by else data


def _value(config: Config, key: str) -> Any:
    value: Any = config.model_dump(mode="json")
    # by its old name, so that folders of earlier versions can be resumed
    value["amplify"]["precondition"] = value["amplify"].pop("whitening")
    for part in key.split("."):
        value = value[part]
    return value
