"""The files of a run folder as a report needs them. A run that is not finished has some of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cca.circuits.circuit import Circuit, load_circuit
from cca.errors import CcaError
from cca.files import read_json
from cca.pivots.pivot import Pivot, load_pivots
from cca.reports.document import Document
from cca.reports.pivot_cards import PivotCard, read_cards

STAGES = {
    "traces": "traces.jsonl",
    "pivots": "pivots.jsonl",
    "circuit": "circuit.jsonl",
    "amplify": "amplify.json",
    "evaluate": "evaluation.json",
}


@dataclass(frozen=True)
class RunFiles:
    """``report`` is report.json, or what there is of it; ``missing`` names the stages that have not run."""

    name: str
    report: Document
    created: str | None
    circuit: Circuit | None
    pivots: tuple[Pivot, ...] | None
    cards: tuple[PivotCard, ...]
    missing: tuple[str, ...]

    @staticmethod
    def of(folder: Path) -> RunFiles:
        """Read a run folder. Raises CcaError for a folder that is none, and for a damaged file."""
        manifest = _object(folder / "manifest.json")
        report = _object(folder / "report.json")
        if not manifest and not report:
            raise CcaError(
                f"{folder}: expected a run folder, with manifest.json or report.json; found neither"
            )
        circuit, pivots = folder / "circuit.jsonl", folder / "pivots.jsonl"
        missing = () if report else tuple(s for s, file in STAGES.items() if not (folder / file).exists())
        return RunFiles(
            name=folder.resolve().name,
            report=Document(report or _so_far(folder, manifest)),
            created=Document(manifest, "manifest.json").text("created"),
            circuit=load_circuit(circuit) if circuit.exists() else None,
            pivots=tuple(load_pivots(pivots)) if pivots.exists() else None,
            cards=tuple(read_cards(folder / "pivots_text.jsonl")),
            missing=missing,
        )


def _so_far(folder: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """What report.json would hold, from the stages that have run."""
    known = {key: manifest.get(key) for key in ("config", "versions", "hardware")}
    return {
        **_object(folder / "evaluation.json"),
        "amplify": _object(folder / "amplify.json"),
        "timing": _object(folder / "timing.json"),
        **known,
        "made_from": manifest.get("fingerprints"),
    }


def _object(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    found = read_json(path)
    if not isinstance(found, dict):
        raise CcaError(f"{path}: expected a JSON object, got {type(found).__name__}; is the file damaged?")
    return found
