"""`cca demo` as a user runs it: how long it takes, and whether its report reaches what is claimed of the method.

One seed; it takes as long as all other benchmarks together. Its drift is held against the random circuit of the same
size and mix that the run amplifies beside it, at the step as accurate as the patch.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from benchmarks.measuring import Measured, Row, cca
from cca.reports.report import Report
from cca.reports.results import matched_drift, retention_rows


def measure() -> list[Row]:
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary) / "run"
        began = time.perf_counter()
        cca("demo", "--out", str(out))
        seconds = time.perf_counter() - began
        report = Report.read(out / "report.json")
    low, high = report.gain.interval or (0.0, 0.0)
    rows = [
        row("cca demo, seconds", "a coffee", seconds, ("<=", 240), "from the command to the report"),
        row(
            "gain on unseen problems, points", "the base", report.gain.points or 0.0, (">=", 20),
            f"95 % interval {low:+.1f} to {high:+.1f}", sound=low > 0,
        ),
        row("share of parameters", "all", report.share.parameters or 0.0, ("<=", 0.01), "edited"),
    ]  # fmt: skip
    matched = matched_drift(report)
    if matched is not None:
        patch, control, _ = matched
        rows.append(
            row(
                "drift at the patch's accuracy", "a random circuit of the same size and mix", patch / control,
                ("<=", 1 / 50), f"{patch:.1e} against {control:.1e} nats a token, on validation data",
            )
        )  # fmt: skip
    worst = min(retention_rows(report), key=lambda each: each.change.points or 0.0)
    rows.append(
        row(
            "largest loss of another skill, points", "the base", 0.0 - (worst.change.points or 0.0), ("<=", 0.5),
            f"{worst.name}: {worst.base:.1%} to {worst.patched:.1%} of {worst.detail}",
        )
    )  # fmt: skip
    return rows


def row(what: str, against: str, value: float, reach: tuple[str, float], details: str, sound: bool = True) -> Row:
    return Row(what, against, Measured((value,)), reach, details, sound)
