"""The stages of a run: what each depends on, its files, and how its work is kept and shown.

A stage's inputs are keys of the configuration, parts of the data, and files of earlier stages. Its file holds
``made_from``, the hash of exactly these. Resuming and forking both check that the hash in the file equals the present
one. Keys outside the list (``traces.batch_size``, ``device_map``) change how fast a stage is, not what it makes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

from cca.errors import CcaError
from cca.files import fingerprint, write_bytes
from cca.gradients.training_state import TrainingFile
from cca.runs.config import Config
from cca.runs.costs import Costs
from cca.runs.folder.row_log import MEASUREMENTS, RowLog
from cca.runs.progress import RunProgress
from cca.runs.trackers import Track

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


@dataclass(frozen=True)
class StageFiles:
    """A stage's part of the run folder. ``made_from`` is the hash of all that the stage depends on."""

    stage: Stage
    folder: Path
    made_from: str
    costs: Costs
    progress: RunProgress
    track: Track
    """Logs numbers to the experiment trackers."""
    chunk_done: Callable[[], None]
    """Call it whenever all work so far is on disk. Raises Stopped where the run was asked to stop."""
    note: Callable[[str], None]
    """Shows a note and keeps it in the manifest, for readers of the results."""

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    @property
    def done(self) -> bool:
        """True when the stage's last file is there."""
        return (self / self.stage.files[-1]).exists()

    def check(self) -> None:
        """Raises CcaError unless the stage's file was made from the present inputs."""
        path = self / self.stage.says[0]
        if made_from(path) != self.made_from:
            raise CcaError(f"{path}: was made from other data than is there now; delete it to make it again")

    def log(self, name: str, format: str, version: int, chunk: int, total: int) -> RowLog:
        """The log that the stage appends to."""
        header = {"format": format, "version": version, "made_from": self.made_from, "rows": total}
        return RowLog(self / name, header, chunk, total)

    def training_state(self, name: str, *what: object) -> TrainingFile:
        """The file that keeps the state of a training; ``what`` says which training of this stage it is."""
        return TrainingFile(self / name, fingerprint([self.made_from, *what]), self.chunk_done)

    def timed(self, part: str | None = None) -> AbstractContextManager[None]:
        """Add the block's cost to the stage's, or to that of a part with a name of its own."""
        return self.costs.timed(part or self.stage.name)

    def remove(self, *names: str) -> None:
        """Remove files that only a stage under way needs."""
        for name in names:
            (self / name).unlink(missing_ok=True)


def take_over(source: Path, target: Path, hash_of: Callable[[str], str]) -> list[str]:
    """Copy into ``target`` the stages of ``source`` that are valid there, up to the first that is not; their names.

    ``hash_of`` gives the ``made_from`` that a stage must have in ``target``.
    """
    if (source / MEASUREMENTS).exists() and not (target / MEASUREMENTS).exists():
        write_bytes(target / MEASUREMENTS, (source / MEASUREMENTS).read_bytes())
    copied: list[str] = []
    for stage in STAGES.values():
        if any((target / name).exists() for name in stage.says):
            continue  # copied by an earlier call, or begun in the target
        wanted = hash_of(stage.name)
        if all(made_from(source / name) != wanted for name in stage.says):
            break
        _copy(source, target, (*stage.files, *stage.says))
        copied.append(stage.name)
        if not (target / stage.files[-1]).exists():
            break  # a stage that was under way
    # the state of another training is ignored when it is loaded
    _copy(source, target, [name for name, made in UNDER_WAY.items() if not (target / made).exists()])
    return copied


def _copy(source: Path, target: Path, names: Sequence[str]) -> None:
    for name in names:
        if (source / name).exists():
            write_bytes(target / name, (source / name).read_bytes())


def hash_inputs(stage: Stage, config: Config, inputs: Mapping[str, Any], folder: Path) -> str:
    """The hash of all that ``stage`` depends on; the files of earlier stages must be in ``folder``."""
    whole = config.model_dump(mode="json")
    # by its old name, so that folders of earlier versions can be resumed
    whole["amplify"]["precondition"] = whole["amplify"].pop("whitening")
    keys = {key: reduce(getitem, key.split("."), whole) for key in stage.keys}
    data = {name: inputs[name] for name in stage.inputs}
    files = {name: content_hash(folder / name) for name in stage.before}
    return fingerprint([stage.name, keys, data, files])


def made_from(path: Path) -> str | None:
    """The ``made_from`` of a stage's file; None where the file is not there, is damaged or holds none."""
    try:
        with path.open(encoding="utf-8") as file:
            header = json.loads(file.read() if path.suffix == ".json" else file.readline())
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
