"""Status of a run, from its files alone: takes no lock and loads no model, so the run may be under way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cca.circuits.circuit import load_circuit
from cca.errors import CcaError
from cca.files import Row, read_json, read_sealed
from cca.pivots.pivot import load_pivots
from cca.pivots.traces import opposite
from cca.runs.costs import FILE as TIMING
from cca.runs.costs import StageCost, read_costs
from cca.runs.folder.row_log import rows_so_far
from cca.runs.folder.run_folder import Owner, RunFolder
from cca.runs.folder.stage_files import PIVOTS_LOG, STAGES
from cca.runs.progress import CURRENT, LOG
from cca.runs.stages.amplify import AMPLIFY
from cca.runs.stages.evaluate import FORMAT as EVALUATION
from cca.runs.stages.traces_and_pivots import PIVOTS, TRACES, read_traces

LAST_LINES = 3


def status(folder: Path) -> Row:
    """``state``, ``now`` (the work under way), ``stages`` with what each found, ``seconds`` so far, ``log``.

    Raises CcaError for a folder that is no run's, and for a damaged file.
    """
    manifest = RunFolder(folder).manifest()
    costs = read_costs(folder / TIMING)
    stages = {name: _stage(folder, name, costs) for name in STAGES}
    finished = all(stage["state"] == "done" for stage in stages.values())
    state, alive = _state(Owner.of(folder), finished)
    return {
        "run": str(folder),
        "model": manifest["config"].get("model"),
        "created": manifest.get("created"),
        "state": state,
        "now": _now(folder) if alive else None,
        "stages": stages,
        "seconds": sum(cost["seconds"] for cost in costs.values()),
        "notes": manifest.get("notes", []),
        "log": _lines(folder / LOG)[-LAST_LINES:],
    }


def _state(owner: Owner | None, finished: bool) -> tuple[str, bool]:
    """The run's state in words, and whether somebody may be at it."""
    if owner is None:
        return ("finished" if finished else "stopped; `cca run` goes on"), False
    if owner.alive is not None:
        return (
            (f"running: {owner}", True) if owner.alive else (f"stopped: {owner} was killed; `cca run` goes on", False)
        )
    return f"held by {owner} (another machine: whether it lives cannot be told from here)", True


def _stage(folder: Path, name: str, costs: dict[str, StageCost]) -> Row:
    stage = STAGES[name]
    found = FINDINGS[name](folder) if any((folder / file).exists() for file in stage.says) else {}
    done = all((folder / file).exists() for file in stage.files) and found.get("problems") == found.get("of")
    own = [costs[part] for part in (name, *(["controls"] if name == "evaluate" else [])) if part in costs]
    state = "done" if done else "under way" if found or own else "pending"
    costs_so_far: Row = {"seconds": sum(cost["seconds"] for cost in own)}
    if own:
        costs_so_far["tokens"] = int(sum(cost["tokens"] for cost in own))
        peaks = {key for cost in own for key in cost if key.startswith("peak_")}
        costs_so_far |= {key: max(cost.get(key, 0) for cost in own) for key in sorted(peaks)}
    return {"state": state, **costs_so_far, **found}


def _traces(folder: Path) -> Row:
    rows, total = rows_so_far(folder / TRACES)
    traces = read_traces(folder / TRACES, rows)
    right = sum(own[0].right for own in traces) / max(1, len(traces))
    paired = sum(opposite(own) is not None for own in traces)
    return {"problems": len(traces), "of": total, "greedy_accuracy": right, "paired": paired}


def _pivots(folder: Path) -> Row:
    if (folder / PIVOTS).exists():
        return {"pivots": len(load_pivots(folder / PIVOTS))}
    rows, total = rows_so_far(folder / PIVOTS_LOG)
    return {"pivots": sum(len(row.get("pivots", ())) for row in rows), "pairs": len(rows), "of": total}


def _circuit(folder: Path) -> Row:
    circuit = load_circuit(folder / "circuit.jsonl")
    return {"components": len(circuit), "method": circuit.method}


def _amplify(folder: Path) -> Row:
    def found(summary: Row) -> Row:
        by_step = {record["step"]: record["validation"]["accuracy"] for record in summary["history"]}
        best = summary["best_step"]
        return {"best_step": best, "validation_before": by_step[0], "validation_after": by_step[best]}

    return _read(folder / "amplify.json", AMPLIFY, found, "a history of steps")


def _evaluate(folder: Path) -> Row:
    def found(measured: Row) -> Row:
        accuracies = {name: measured[name]["accuracy"] for name in ("base", "patched")}
        return {**accuracies, "gain_points": measured["gain"]["points"], "drift": measured["drift"]["kl"]}

    return _read(folder / "evaluation.json", EVALUATION, found, "base, patched, gain and drift")


def _read(path: Path, format: str, found: Callable[[Row], Row], expected: str) -> Row:
    try:
        return found(read_sealed(path, format, 1))
    except (KeyError, TypeError) as error:
        raise CcaError(f"{path}: expected {expected}; {error!r}") from error


FINDINGS: dict[str, Callable[[Path], Row]] = {
    "traces": _traces,
    "pivots": _pivots,
    "circuit": _circuit,
    "amplify": _amplify,
    "evaluate": _evaluate,
}


def _now(folder: Path) -> Row | None:
    try:
        current = read_json(folder / CURRENT)
    except CcaError:
        return None
    return current if isinstance(current, dict) else None


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
