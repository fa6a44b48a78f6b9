"""Experiment trackers (tensorboard, wandb, ...) through accelerate: the numbers of the run folder, as curves.

Nothing a tracker does changes a result, so ``trackers`` may differ between two sittings of a run. Steps that a resumed
run takes again are logged again, with the same values. Their files are in ``trackers`` in the run folder.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from cca.errors import CcaError

FOLDER = "trackers"


class Track(Protocol):
    def __call__(self, values: Mapping[str, Any], step: int | None = None) -> None:
        """Log numbers, nested or not, at a step."""
        ...


def track_nothing(values: Mapping[str, Any], step: int | None = None) -> None:
    del values, step


@contextmanager
def tracking(names: Sequence[str], folder: Path, config: Mapping[str, Any]) -> Iterator[Track]:
    """Start the trackers ``names``; ends them afterwards. Raises CcaError for one that is unknown or not installed."""
    if not names:
        yield track_nothing
        return
    from accelerate import Accelerator
    from accelerate.tracking import get_available_trackers

    available = [str(getattr(name, "value", name)) for name in get_available_trackers()]
    for name in names:
        if name not in available:
            known = ", ".join(available) or "none"
            raise CcaError(f"trackers: expected installed ones ({known}), got {name!r}; pip install {name}")
    accelerator = Accelerator(log_with=list(names), project_dir=str(folder / FOLDER))
    (folder / FOLDER).mkdir(exist_ok=True)
    places = {"wandb": {"dir": str(folder / FOLDER)}}
    accelerator.init_trackers("cca", config=flattened(config, texts=True), init_kwargs=places)

    def track(values: Mapping[str, Any], step: int | None = None) -> None:
        accelerator.log(flattened(values), step=step)

    try:
        yield track
    finally:
        accelerator.end_training()


def flattened(values: Mapping[str, Any], before: str = "", texts: bool = False) -> dict[str, Any]:
    """Nested values by slashed names: the finite numbers, and with ``texts`` what is none as text."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{before}{name}/", texts)
        elif isinstance(value, int | float) and math.isfinite(value):
            flat[before + name] = float(value)
        elif texts and value is not None:
            flat[before + name] = str(value)
    return flat
