"""report.html: one self-contained page from the files of a run.

It loads nothing from anywhere and runs no script (its content policy forbids both). Whatever comes from a file is
escaped: by jinja2's autoescape in the template, by markupsafe in the plots.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cca.circuits.circuit import Circuit
from cca.errors import CcaError
from cca.models.anatomy.components import KINDS
from cca.reports import formats, plots, results
from cca.reports.circuit_picture import LEVELS, circuit_picture
from cca.reports.plots import History
from cca.reports.report import Report
from cca.reports.results import ResultRow
from cca.reports.run_files import RunFiles
from cca.reports.svg import Scale

TOP_COMPONENTS = 24


def render_page(folder: Path) -> str:
    """The page of a run folder, whatever stages of it are there.

    Raises CcaError for a folder that is no run's, and for a damaged file.
    """
    files = RunFiles.of(folder)
    text = _environment().get_template("report.html").render(_contents(files))
    return text.encode("utf-8", "replace").decode()


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("cca.reports", "page"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    filters = "percent points interval p_value count counted duration share label".split()
    environment.filters |= {name: getattr(formats, name) for name in filters}
    environment.filters |= {"nats": _whole_number, "significant": _whole_number}
    return environment


def _whole_number(value: float | None) -> Markup:
    """A number with its exponent, which a line must not break."""
    written = formats.UNKNOWN if value is None else formats.significant(value)
    return Markup('<span class="kept">{}</span>').format(written)


def _contents(files: RunFiles) -> dict[str, Any]:
    report = files.report
    history = History.of(report)
    groups = [results.task_rows(report), results.retention_rows(report), results.edit_rows(report)]
    return {
        "name": formats.label(files.name),
        "created": files.created and formats.moment(files.created),
        "missing": files.missing,
        "notes": [formats.label(note, 400) for note in report.notes],
        "model": _model_name(report),
        "task": _task_name(report),
        "headline": groups[0][0] if groups[0] else None,
        "drift": report.drift.kl,
        "shares": results.shares(report),
        "worst": results.worst_retention(report),
        "gain": report.gain,
        "results": _result_table(groups),
        "matched": results.matched_drift(report),
        "matched_reached": results.reached_match(report),
        "random": results.control_summary(report),
        "templates": _template_rows(report),
        "accuracy_axis": plots.accuracy_axis(),
        "circuit": _circuit(files),
        "history": history,
        "history_plot": _history_plot(history),
        "pivots": _pivots(files),
        "timing": _timing(report),
        "total": results.total_seconds(report),
        "reproduce": _reproduction(report, files.name),
        "facts": _facts(files),
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


def _result_table(groups: list[list[ResultRow]]) -> dict[str, Any] | None:
    rows = [row for group in groups for row in group]
    if not rows:
        return None
    changes = [row.points for row in rows if row.points is not None]
    scale = plots.change_scale(changes, [row.interval for row in rows if row.interval])
    headings = ("The task", "Other skills", "The edit and its controls")
    return {
        "axis": plots.change_axis(scale),
        "groups": [
            (heading, [(row, _interval_plot(row, scale)) for row in group])
            for heading, group in zip(headings, groups, strict=True)
            if group
        ],
    }


def _interval_plot(row: ResultRow, scale: Scale) -> Markup:
    title = f"{formats.label(row.name)}: {formats.points(row.points)} points"
    if row.interval:
        title += f", 95 % interval {formats.interval(row.interval)}"
    return plots.interval_plot(title, row.points, row.interval, scale, row.group)


def _template_rows(report: Report) -> list[dict[str, Any]]:
    """Templates by gain, the largest first."""
    rows = []
    for row in report.templates:
        base, patched, name = row.base, row.patched, formats.label(row.template)
        if base is None or patched is None:
            continue
        title = f"{name}: base {formats.percent(base)}, patched {formats.percent(patched)}"
        rows.append(
            {
                "name": name, "problems": row.problems, "base": base, "patched": patched,
                "points": 100 * (patched - base), "plot": plots.dumbbell(title, base, patched),
                "unseen": row.seen is False,
            }
        )  # fmt: skip
    return sorted(rows, key=lambda row: (-row["points"], row["name"]))


def _circuit(files: RunFiles) -> dict[str, Any] | None:
    circuit = files.circuit
    if circuit is None or not len(circuit):
        return None
    sizes = [{kind: getattr(layer, kind) for kind in KINDS} for layer in files.report.anatomy.layers]
    layers = Counter((component.layer, component.kind) for component in circuit.components)
    numbers = range(len(sizes)) if sizes else sorted({layer for layer, _ in layers})
    ranked = sorted(circuit.scores.items(), key=lambda item: -abs(item[1]))
    return {
        "components": len(circuit),
        "method": formats.label(circuit.method),
        "kinds": [(kind, n) for kind in KINDS if (n := circuit.count(kind))],
        "picture": circuit_picture(sizes, circuit.components, circuit.scores) if sizes else None,
        "levels": range(1, LEVELS + 1) if circuit.scores else (),
        "layers": [(number, [layers[number, kind] for kind in KINDS]) for number in numbers],
        "ranked": [(str(component), score) for component, score in ranked[:TOP_COMPONENTS]] or _names(circuit),
    }


def _names(circuit: Circuit) -> list[tuple[str, float | None]]:
    return [(str(component), None) for component in circuit.components[:TOP_COMPONENTS]]


def _history_plot(history: History | None) -> Markup | None:
    if history is None or len(history.rows) < 2:
        return None
    last, best = history.rows[-1].step, history.best_step
    title = f"Validation accuracy, logit gap and drift over {last} steps; best step {best}"
    return plots.history_plot(title, history.panels(), history.best_step)


def _pivots(files: RunFiles) -> dict[str, Any] | None:
    pivots, count = files.pivots, files.report.pivots.count
    if pivots is None and count is None:
        return None
    known = pivots or ()
    return {
        "count": len(known) or count, "greedy_right": sum(pivot.greedy_right for pivot in known),
        "known": bool(known), "templates": len({pivot.template for pivot in known}),
        "methods": sorted({formats.label(pivot.method) for pivot in known}),
        "planted": results.pivot_facts(files.report), "cards": files.cards,
    }  # fmt: skip


def _timing(report: Report) -> list[tuple[str, float | None, int | None, Markup]]:
    rows = results.timing_rows(report)
    longest = max((seconds or 0.0 for _, seconds, _ in rows), default=0.0) or 1.0
    return [
        (name := formats.label(stage, 40), seconds, tokens,
         plots.bar(f"{name}: {formats.duration(seconds)}", max(0.0, (seconds or 0.0) / longest)))
        for stage, seconds, tokens in rows
    ]  # fmt: skip


def _reproduction(report: Report, name: str) -> str | None:
    """The configuration as a run.yaml. YAML escapes what is not ASCII, so nothing in it can hide or reorder text."""
    if not report.config:
        return None
    return yaml.safe_dump({**report.config, "out": f"runs/{name}-again"}, sort_keys=False, width=100)


def _facts(files: RunFiles) -> list[tuple[str, str]]:
    report = files.report
    facts = [("report fingerprint", report.fingerprint)]
    facts += [(f"{what} fingerprint", found) for what, found in report.made_from.items()]
    facts += list(report.versions.items())
    facts += [(what, _plain(found)) for what, found in report.hardware.items()]
    return [(formats.label(what), formats.label(found)) for what, found in facts if found is not None]


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
