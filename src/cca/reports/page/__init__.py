"""report.html: one self-contained page from the files of a run. A run that is not finished has some of them.

The page loads nothing from anywhere and runs no script (its content policy forbids both). Whatever comes from a file
is escaped: by jinja2's autoescape in the template, by markupsafe in the plots. The texts of pivots come from
``pivots_text.jsonl``, which the pivots stage writes, since a page loads no tokenizer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cache
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cca.circuits.circuit import Circuit, load_circuit
from cca.errors import CcaError
from cca.files import read_rows
from cca.models.anatomy.components import KINDS
from cca.pivots.pivot import TEXTS_FORMAT as FORMAT
from cca.pivots.pivot import VERSION, load_pivots
from cca.reports import formats, plots, results
from cca.reports.circuit_picture import LEVELS, circuit_picture
from cca.reports.parts import Flag, Part
from cca.reports.report import Report, read_object

STAGES = {
    "traces": "traces.jsonl", "pivots": "pivots.jsonl", "circuit": "circuit.jsonl", "amplify": "amplify.json",
    "evaluate": "evaluation.json",
}  # fmt: skip
TOP_COMPONENTS = 24
SHOWN = 10  # pivots
LAST_OF_PROMPT = 420  # characters: a few-shot prompt's end is the problem itself
LAST_OF_PREFIX = 1200


class PivotText(Part):
    """A pivot to read: the text up to the fork, and the two tokens."""

    problem: str | None = None
    template: str | None = None
    prompt_text: str | None = None
    prefix_text: str | None = None
    desired_text: str | None = None
    undesired_text: str | None = None
    greedy_right: Flag = False


def render_page(folder: Path) -> str:
    """The page of a run folder, whatever stages of it are there.

    Raises CcaError for a folder that is no run's, and for a damaged file.
    """
    text = _environment().get_template("report.html").render(_contents(folder))
    return text.encode("utf-8", "replace").decode()


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("cca.reports", "page"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    filters = "percent points interval p_value count counted duration share label".split()
    environment.filters |= {name: getattr(formats, name) for name in filters}
    environment.filters |= {"nats": _kept_number, "significant": _kept_number, "ending": ending, "token": _token}
    environment.globals |= {"plots": plots, "worst_loss": results.worst_loss}
    environment.globals |= {"last_of_prompt": LAST_OF_PROMPT, "last_of_prefix": LAST_OF_PREFIX}
    return environment


def _kept_number(value: float | None) -> Markup:
    """A number with its exponent, which a line must not break."""
    written = formats.UNKNOWN if value is None else formats.significant(value)
    return Markup('<span class="kept">{}</span>').format(written)


def ending(text: str, characters: int) -> str:
    """The last ``characters`` of ``text``."""
    return formats.visible(text if len(text) <= characters else "…" + text[-characters:])


def _token(text: str) -> str:
    return formats.token(text[:200]) or "(empty)"


def _contents(folder: Path) -> dict[str, Any]:
    """The variables of the template."""
    manifest, whole = read_object(folder / "manifest.json"), read_object(folder / "report.json")
    if not manifest and not whole:
        raise CcaError(f"{folder}: expected a run folder, with manifest.json or report.json; found neither")
    report = Report.from_json(whole or _so_far(folder, manifest))
    history, name = report.amplify.history, folder.resolve().name
    groups = {
        "The task": results.task_rows(report),
        "Other skills": results.retention_rows(report),
        "The edit and its controls": results.edit_rows(report),
    }
    rows = [row for group in groups.values() for row in group]
    templates = [row for row in report.templates if row.points is not None]
    return {
        "report": report,
        "name": formats.label(name),
        "created": formats.moment(str(manifest["created"])) if manifest.get("created") else None,
        "missing": () if whole else [stage for stage, file in STAGES.items() if not (folder / file).exists()],
        "model": _model_name(report),
        "task": _task_name(report),
        "headline": rows[0] if groups["The task"] else None,
        "shares": results.shares(report),
        "worst": results.worst_retention(report),
        "groups": {heading: group for heading, group in groups.items() if group},
        "scale": plots.change_scale(rows),
        "matched": results.matched_drift(report),
        "matched_reached": results.reached_match(report),
        "random": results.control_summary(report),
        "templates": sorted(templates, key=lambda row: (-(row.points or 0.0), formats.label(row.template))),
        "circuit": _circuit(folder / "circuit.jsonl", report),
        "best_step": report.amplify.best_step or 0 if history else None,
        "history_plot": plots.history_plot(report) if len(history) > 1 else None,
        "pivots": _pivots(folder, report),
        "longest": max((cost.seconds or 0.0 for cost in report.timing.values()), default=0.0) or 1.0,
        "total": results.total_seconds(report),
        "reproduce": _reproduction(report, name),
        "facts": _facts(report),
    }


def _so_far(folder: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """The part of report.json that the stages so far give."""
    return {
        **read_object(folder / "evaluation.json"),
        "amplify": read_object(folder / "amplify.json"),
        "timing": read_object(folder / "timing.json"),
        **{key: manifest.get(key) for key in ("config", "versions", "hardware", "notes")},
        "made_from": manifest.get("fingerprints"),
    }


def _model_name(report: Report) -> str:
    """A hub id as it is, of a local folder its name."""
    model = report.config.get("model") or "unknown model"
    if not isinstance(model, str):
        raise CcaError(f"report.config.model: expected a text, got {model!r:.80}; is the file damaged?")
    return formats.label(Path(model).name if model.count("/") > 1 or model.startswith((".", "/", "~")) else model)


def _task_name(report: Report) -> str:
    task = report.config.get("task")
    if isinstance(task, Mapping):
        task = Path(str(task.get("source", task.get("test", "files")))).name
    return formats.label(str(task)) if task else "unknown task"


def _circuit(path: Path, report: Report) -> dict[str, Any] | None:
    circuit = load_circuit(path) if path.exists() else None
    if circuit is None or not len(circuit):
        return None
    sizes = [{kind: getattr(layer, kind) for kind in KINDS} for layer in report.anatomy.layers]
    layers = Counter((component.layer, component.kind) for component in circuit.components)
    numbers = range(len(sizes)) if sizes else sorted({layer for layer, _ in layers})
    return {
        "components": len(circuit),
        "method": circuit.method,
        "kinds": [(kind, n) for kind in KINDS if (n := circuit.count(kind))],
        "picture": circuit_picture(sizes, circuit.components, circuit.scores) if sizes else None,
        "levels": range(1, LEVELS + 1) if circuit.scores else (),
        "layers": [(number, [layers[number, kind] for kind in KINDS]) for number in numbers],
        "ranked": _ranked(circuit)[:TOP_COMPONENTS],
    }


def _ranked(circuit: Circuit) -> list[tuple[str, float | None]]:
    """Components with their scores, the highest first; without scores all, as they stand."""
    ranked = sorted(circuit.scores.items(), key=lambda item: -abs(item[1]))
    return [(str(component), score) for component, score in ranked] or [(str(one), None) for one in circuit.components]


def _pivots(folder: Path, report: Report) -> dict[str, Any] | None:
    path, count = folder / "pivots.jsonl", report.pivots.count
    pivots = load_pivots(path) if path.exists() else []
    cards = read_cards(folder / "pivots_text.jsonl")
    if not path.exists() and count is None:
        return None
    return {
        "count": len(pivots) or count, "greedy_right": sum(pivot.greedy_right for pivot in pivots),
        "known": bool(pivots), "templates": len({pivot.template for pivot in pivots}),
        "methods": sorted({formats.label(pivot.method) for pivot in pivots}),
        "cards": cards,
    }  # fmt: skip


def read_cards(path: Path) -> list[PivotText]:
    """Up to `SHOWN` pivots with texts, as many templates as there are; none where the file is not there.

    Raises CcaError for a file that is something else, naming its row.
    """
    by_template: dict[str | None, list[PivotText]] = {}
    for index, row in enumerate(read_rows(path, FORMAT, VERSION)[1] if path.exists() else (), start=1):
        found = PivotText.from_json(row, f"{path}, row {index}")
        for key, value in found:
            if value is None:
                raise CcaError(f"{path}, row {index}: expected {key!r}, got none; delete the file and report again")
        by_template.setdefault(found.template, []).append(found)
    turns: Iterable[PivotText | None] = chain.from_iterable(zip_longest(*by_template.values()))
    return list(islice((card for card in turns if card is not None), SHOWN))


def _reproduction(report: Report, name: str) -> str | None:
    """The configuration as a run.yaml. YAML escapes what is not ASCII, so nothing in it can hide or reorder text."""
    if not report.config:
        return None
    return yaml.safe_dump({**report.config, "out": f"runs/{name}-again"}, sort_keys=False, width=100)


def _facts(report: Report) -> list[tuple[str, str]]:
    facts = [("report fingerprint", report.fingerprint)]
    facts += [(f"{what} fingerprint", found) for what, found in report.made_from.items()]
    facts += list(report.versions.items())
    facts += [(what, _plain(found)) for what, found in report.hardware.items()]
    return [(formats.label(what), formats.label(found)) for what, found in facts if found is not None]


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
