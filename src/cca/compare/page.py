"""compare.html: one self-contained page from a comparison, in the style of the run report. No script runs in it."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cca.compare.results import ArmResult, Comparison
from cca.compare.table import arm_cells
from cca.reports import formats
from cca.reports.svg import Scale, element, figure

HUES = 12
"""Lines that can be told apart; further arms share a colour and keep their own label."""
HEIGHT = 340.0
COSTS = {"drift": "less drift", "parameters": "fewer parameters", "seconds": "less time"}


def compare_page(result: Comparison) -> str:
    """The page. Text from the configuration is escaped."""
    environment = Environment(
        loader=PackageLoader("cca", "compare"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"label": formats.label, "counted": formats.counted}
    runs = {(run.model, run.seed) for arm in result.arms for run in arm.runs}
    text = environment.get_template("compare.html").render(
        result=result,
        style=Markup((files("cca.reports") / "page" / "style.css").read_text(encoding="utf-8")),
        hues=HUES,
        models=", ".join(sorted({model for model, _ in runs})) or "no model",
        runs=len(runs),
        tables=[(target, arm_cells(result, target)) for target in result.targets],
        curves=_curves(result.arms),
        costs=COSTS,
    )
    return text.encode("utf-8", "replace").decode()


def _curves(arms: Sequence[ArmResult]) -> Markup | None:
    """Gain to the right, drift upwards on a logarithmic scale."""
    drawn = [(place, arm) for place, arm in enumerate(arms) if arm.curve]
    points = [point for _, arm in drawn for point in arm.curve]
    if not points:
        return None
    drifts = [max(point.drift, 1e-9) for point in points]
    across = Scale(0.0, max(point.points for point in points), 8.0, 78.0)
    down = Scale(min(drifts) / 2, max(drifts) * 2, HEIGHT - 30, 12.0, log=True)
    parts = [
        element("text", formats.significant(tick), x="7%", y=down.at(tick) + 4, text_anchor="end")
        for tick in down.ticks(8)
    ]
    parts += [
        element("text", f"+{tick:g}", x=f"{across.at(tick)}%", y=HEIGHT - 8, text_anchor="middle")
        for tick in across.ticks(8)
    ]
    for order, (place, arm) in enumerate(drawn):
        hue = f"hue{place % HUES}"
        at = [(across.at(point.points), down.at(max(point.drift, 1e-9))) for point in arm.curve]
        parts += [
            element("line", x1=f"{x1}%", y1=y1, x2=f"{x2}%", y2=y2, class_=f"curve {hue}")
            for (x1, y1), (x2, y2) in zip(at, at[1:], strict=False)
        ]
        parts += [
            element(
                "circle",
                element("title", formats.label(arm.label)),
                cx=f"{x}%",
                cy=y,
                r=3,
                class_=f"dot {hue}",
            )
            for x, y in at
        ]
        legend = 16.0 + 15 * order
        parts.append(element("circle", cx="81%", cy=legend - 4, r=4, class_=f"dot {hue}"))
        parts.append(element("text", formats.label(arm.label, 34), x="82.5%", y=legend))
    height = max(HEIGHT, 30.0 + 15 * len(drawn))
    return figure("Drift at growing gains, one line per arm", height, *parts)
