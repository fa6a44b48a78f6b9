"""docs/results.md, written from compare.json files: no number in it is typed by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cca.compare.model_table import base_of, drifts_by_model, gains_by_model, model_cells, models_of
from cca.compare.results import FORMAT, VERSION
from cca.compare.table import arm_cells, markdown_table
from cca.errors import CcaError
from cca.files import check_version, read_json
from cca.reports import formats

Row = Mapping[str, Any]
GAINS = "Gain inside the budget, in points, on the test split where it was measured (of several draws the median):"
DRIFTS = "Drift where the reference's gain is reached, over the reference's own (median of the draws that get there):"


def read_result(path: Path) -> Row:
    """A compare.json. Raises CcaError for anything else."""
    result = read_json(path)
    if not isinstance(result, dict) or result.get("format") != FORMAT:
        raise CcaError(f"{path}: expected a {FORMAT} file, got something else")
    check_version(str(path), result.get("version"), VERSION)
    return result


def results_page(results: Mapping[str, Row], preface: str) -> str:
    """The page: ``preface`` (prose), then each comparison under its title, its tables and what wins."""
    parts = [preface.strip()]
    for title, result in results.items():
        parts += [f"## {title}", _described(result)]
        for target in result["targets"]:
            parts += [f"Matched at {target}:", markdown_table(arm_cells(result, target))]
        models = models_of(result)
        if len(models) > 1:
            parts += [GAINS, markdown_table(gains_by_model(result))]
            parts += [DRIFTS, markdown_table(drifts_by_model(result))]
        for model in models if len(models) > 1 else ():
            parts += [_model_heading(result, model), markdown_table(model_cells(result, model))]
        parts += [_winners(result), _failures(result["arms"])]
    return "\n\n".join(part for part in parts if part) + "\n"


def _described(result: Row) -> str:
    config = result["config"]
    models = ", ".join(formats.label(model["name"] or model["model"]) for model in config["models"])
    seeds = ", ".join(map(str, config["seeds"]))
    return f"Models: {models}. Seeds: {seeds}. Reference arm: `{formats.label(result['reference'])}`."


def _model_heading(result: Row, model: str) -> str:
    bases = ", ".join(formats.percent(base) for base in base_of(result, model))
    return f"### {formats.label(model)}\n\nUntouched, on the validation problems that judge steps: {bases}."


def _winners(result: Row) -> str:
    """On how many runs each arm has the least drift at the reference's gain."""
    least: dict[tuple[str, int], tuple[float, str]] = {}
    for arm in result["arms"]:
        if arm["control"] is not None:
            continue
        for run in arm["runs"]:
            point = run["matched"]["reference"]
            where = (run["model"], run["seed"])
            if point is not None and (where not in least or point["drift"] < least[where][0]):
                least[where] = (point["drift"], arm["label"])
    if not least:
        return ""
    wins: dict[str, int] = {}
    for _, label in least.values():
        wins[label] = wins.get(label, 0) + 1
    told = [
        f"`{formats.label(label)}` {count}"
        for label, count in sorted(wins.items(), key=lambda item: -item[1])
    ]
    return f"Least drift at the reference's gain, of {formats.counted(len(least), 'run')}: {', '.join(told)}."


def _failures(arms: Sequence[Row]) -> str:
    lines = [
        f"* `{formats.label(arm['label'])}` on {formats.label(fault['model'])}, seed {fault['seed']}: "
        f"{formats.label(fault['failed'], 200)}"
        for arm in arms
        for fault in arm["failed"]
    ]
    return "\n".join(["Could not be run:", "", *lines]) if lines else ""
