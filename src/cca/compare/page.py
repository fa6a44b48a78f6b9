"""compare.html: one self-contained page from compare.json, in the dress of the run report. No script runs in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from markupsafe import Markup

from cca.compare.table import Cells, arm_cells
from cca.reports import formats
from cca.reports.svg import Scale, element, figure, joined

Row = Mapping[str, Any]
HUES = 12
"""Lines that can be told apart; further arms share a colour and keep their own label."""
HEIGHT = 340.0
POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def compare_page(result: Row) -> str:
    """The page. Whatever comes from the configuration is escaped."""
    runs = sorted({(run["model"], run["seed"]) for arm in result["arms"] for run in arm["runs"]})
    models = ", ".join(sorted({model for model, _ in runs})) or "no model"
    body = [
        element("h1", "Which circuit, which objective"),
        element("p", _lead(result, models, len(runs)), class_="lead"),
        _section("At matched gain", *(_matched(result, target) for target in result["targets"])),
        _section("What gain costs", _curves(result["arms"]), element("p", CURVES, class_="caption")),
        _section("Nothing beats these", *_pareto(result["pareto"])),
        _section("How to read this", *(element("p", text) for text in READING)),
    ]
    style = (files("cca.reports") / "page" / "style.css").read_text(encoding="utf-8")
    head = [
        Markup('<meta charset="utf-8"><meta name="viewport" content="width=device-width">'),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("title", "cca compare"),
        Markup("<style>{}{}</style>").format(Markup(style), Markup(_hues())),
    ]
    page = element("html", element("head", *head), element("body", element("main", *body)), lang="en")
    return "<!doctype html>\n" + str(page).encode("utf-8", "replace").decode() + "\n"


READING = (
    "Gain is validation accuracy over the untouched model's, in percentage points; the step was chosen on the same "
    "problems, so it flatters every arm alike. Test columns, where there are any, are on problems that chose nothing.",
    "Drift is the mean token KL from the untouched model, in nats, on solutions of the other skills that no arm was "
    "fitted to; over several runs, the geometric mean.",
    "Matched gain is the first step at which an arm is as accurate as asked: a gain over the base, or the reference "
    "arm's best step in its budget. Ratios are taken within a model and seed, of several draws the median; in brackets "
    "the extremes.",
    "Intervals resample runs (model, seed, draw) and the templates within them.",
)
CURVES = (
    "For growing gains, the median drift of the first step that reaches each, over the runs that do. A line ends where "
    "fewer than half of an arm's runs get further. Lower and further right is better."
)


def _lead(result: Row, models: str, runs: int) -> str:
    arms = formats.counted(len(result["arms"]), "arm")
    reference = formats.label(result["reference"])
    return f"{arms} on {formats.label(models)}, {formats.counted(runs, 'run')} each; reference: {reference}."


def _section(heading: str, *content: Markup) -> Markup:
    return element("section", element("h2", heading), *content)


def _matched(result: Row, target: str) -> Markup:
    return joined([element("h3", f"Where arms reach {target}"), html_table(arm_cells(result, target))])


def html_table(cells: Cells) -> Markup:
    head = element(
        "tr", *(element("th", text, class_="number" if i else None) for i, text in enumerate(cells.heading))
    )
    rows = [
        element("tr", element("th", row[0]), *(element("td", text, class_="number") for text in row[1:]))
        for row in cells.rows
    ]
    return element("div", element("table", element("thead", head), element("tbody", *rows)), class_="table")


def _pareto(pareto: Mapping[str, Sequence[str]]) -> list[Markup]:
    names = {"drift": "less drift", "parameters": "fewer parameters", "seconds": "less time"}
    return [
        element(
            "p",
            f"No arm has at least their gain for {names[what]}: ",
            ", ".join(map(formats.label, arms)),
            ".",
        )
        for what, arms in pareto.items()
    ]


def _curves(arms: Sequence[Row]) -> Markup:
    """Gain to the right, drift upwards on a logarithmic scale."""
    drawn = [(place, arm) for place, arm in enumerate(arms) if arm["curve"]]
    points = [point for _, arm in drawn for point in arm["curve"]]
    if not points:
        return element("p", "No arm reaches a gain of 2.5 points.")
    drifts = [max(point["drift"], 1e-9) for point in points]
    across = Scale(0.0, max(point["points"] for point in points), 8.0, 78.0)
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
        at = [(across.at(point["points"]), down.at(max(point["drift"], 1e-9))) for point in arm["curve"]]
        parts += [
            element("line", x1=f"{x1}%", y1=y1, x2=f"{x2}%", y2=y2, class_=f"curve {hue}")
            for (x1, y1), (x2, y2) in zip(at, at[1:], strict=False)
        ]
        parts += [
            element(
                "circle",
                element("title", formats.label(arm["label"])),
                cx=f"{x}%",
                cy=y,
                r=3,
                class_=f"dot {hue}",
            )
            for x, y in at
        ]
        legend = 16.0 + 15 * order
        parts.append(element("circle", cx="81%", cy=legend - 4, r=4, class_=f"dot {hue}"))
        parts.append(element("text", formats.label(arm["label"], 34), x="82.5%", y=legend))
    height = max(HEIGHT, 30.0 + 15 * len(drawn))
    return figure("Drift at growing gains, one line an arm", height, *parts)


def _hues() -> str:
    rules = [".curve { stroke-width: 1.6; fill: none; } h3 { margin: 1.6rem 0 .4rem; font-size: 1rem; }"]
    for place in range(HUES):
        colour = f"hsl({place * 360 // HUES} 65% 48%)"
        rules.append(f".curve.hue{place} {{ stroke: {colour}; }} .dot.hue{place} {{ fill: {colour}; }}")
    return "\n".join(rules)
