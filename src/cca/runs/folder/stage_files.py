"""A stage's part of the run folder: its files, what they were made from, and how its work is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from cca.errors import CcaError
from cca.files import fingerprint, write_bytes
from cca.gradients.training_state import TrainingFile
from cca.runs.costs import Costs
from cca.runs.folder.measurements import FILE as MEASUREMENTS
from cca.runs.folder.row_log import RowLog
from cca.runs.folder.stage_inputs import STAGES, UNDER_WAY, Stage, made_from


@dataclass(frozen=True)
class StageFiles:
    """``made_from`` is the hash of all that the stage depends on (`cca.runs.folder.stage_inputs`)."""

    stage: Stage
    folder: Path
    made_from: str
    costs: Costs
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
