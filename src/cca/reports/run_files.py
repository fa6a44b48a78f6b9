"""The files of a run folder as a report needs them. A run that is not finished has some of them.

The texts of pivots come from ``pivots_text.jsonl``, which the pivots stage writes, since a page loads no tokenizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cca.circuits.circuit import Circuit, load_circuit
from cca.errors import CcaError
from cca.files import Row, read_json, read_rows
from cca.pivots.pivot import TEXTS_FORMAT, VERSION, Pivot, load_pivots
from cca.reports import formats
from cca.reports.parts import Flag, Part
from cca.reports.report import Report

STAGES = {
    "traces": "traces.jsonl", "pivots": "pivots.jsonl", "circuit": "circuit.jsonl", "amplify": "amplify.json",
    "evaluate": "evaluation.json",
}  # fmt: skip


SHOWN = 10
LAST_OF_PROMPT = 420  # characters: a few-shot prompt's end is the problem itself
LAST_OF_PREFIX = 1200


@dataclass(frozen=True)
class PivotCard:
    """A pivot to read: the text up to the fork, and the two tokens."""

    problem: str
    template: str
    prompt: str
    prefix: str
    desired: str
    undesired: str
    greedy_right: bool


class _Manifest(Part):
    created: str | None = None


@dataclass(frozen=True)
class RunFiles:
    """``report`` is report.json, or what there is of it; ``missing`` names the stages that have not run."""

    name: str
    report: Report
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
            raise CcaError(f"{folder}: expected a run folder, with manifest.json or report.json; found neither")
        circuit, pivots = folder / "circuit.jsonl", folder / "pivots.jsonl"
        missing = () if report else tuple(s for s, file in STAGES.items() if not (folder / file).exists())
        return RunFiles(
            name=folder.resolve().name,
            report=Report.from_json(report or _so_far(folder, manifest), "report"),
            created=_Manifest.from_json(manifest, "manifest.json").created,
            circuit=load_circuit(circuit) if circuit.exists() else None,
            pivots=tuple(load_pivots(pivots)) if pivots.exists() else None,
            cards=tuple(read_cards(folder / "pivots_text.jsonl")),
            missing=missing,
        )


def _so_far(folder: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """The part of report.json that the stages so far give."""
    known = {key: manifest.get(key) for key in ("config", "versions", "hardware")}
    return {
        **_object(folder / "evaluation.json"),
        "amplify": _object(folder / "amplify.json"),
        "timing": _object(folder / "timing.json"),
        **known,
        "notes": manifest.get("notes", []),
        "made_from": manifest.get("fingerprints"),
    }


def _object(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    found = read_json(path)
    if not isinstance(found, dict):
        raise CcaError(f"{path}: expected a JSON object, got {type(found).__name__}; is the file damaged?")
    return found


class _Texts(Part):
    problem: str | None = None
    template: str | None = None
    prompt_text: str | None = None
    prefix_text: str | None = None
    desired_text: str | None = None
    undesired_text: str | None = None
    greedy_right: Flag = False


def read_cards(path: Path) -> list[PivotCard]:
    """The pivots with texts, spread over the templates; none where the file is not there.

    Raises CcaError for a file that is something else, naming its row.
    """
    if not path.exists():
        return []
    _, rows = read_rows(path, TEXTS_FORMAT, VERSION)
    cards = [_card(row, f"{path}, row {index}") for index, row in enumerate(rows, start=1)]
    return spread(cards, SHOWN)


def spread(cards: Sequence[PivotCard], most: int) -> list[PivotCard]:
    """Up to ``most`` cards, as many templates as there are, in the order of the first of each."""
    by_template: dict[str, list[PivotCard]] = {}
    for card in cards:
        by_template.setdefault(card.template, []).append(card)
    longest = max((len(own) for own in by_template.values()), default=0)
    turns = (own[turn] for turn in range(longest) for own in by_template.values() if turn < len(own))
    return [card for card, _ in zip(turns, range(most), strict=False)]


def _card(row: Row, where: str) -> PivotCard:
    found = _Texts.from_json(row, where)
    for key in _Texts.model_fields:
        if getattr(found, key) is None:
            raise CcaError(f"{where}: expected {key!r}, got none; delete the file and report again")
    return PivotCard(
        formats.label(found.problem or ""),
        formats.label(found.template or ""),
        formats.visible(_end(found.prompt_text or "", LAST_OF_PROMPT)),
        formats.visible(_end(found.prefix_text or "", LAST_OF_PREFIX)),
        formats.token((found.desired_text or "")[:200]) or "(empty)",
        formats.token((found.undesired_text or "")[:200]) or "(empty)",
        found.greedy_right,
    )


def _end(text: str, characters: int) -> str:
    return text if len(text) <= characters else "…" + text[-characters:]
