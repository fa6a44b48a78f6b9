"""The picture of a circuit: a row a layer, the input's layer at the bottom; a cell a head, a strip for the neurons.

Where a layer has more heads or neurons than a strip has cells, neighbours share a cell, so a model of 80 layers
of 28,672 neurons is drawn at the cost of a small one. The darkness of a cell is the highest score in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

from markupsafe import Markup

from cca.errors import CcaError
from cca.models.anatomy.components import KINDS, Component
from cca.reports import formats
from cca.reports.plots import element, figure

MOST_CELLS = {"q": 64, "k": 64, "v": 64, "neuron": 192}
HEADINGS = {"q": "Q heads", "k": "K heads", "v": "V heads", "neuron": "MLP neurons"}
SHORT_HEADINGS = {"q": "Q", "k": "K", "v": "V", "neuron": "MLP neurons"}
LEVELS = 4
MOST_TITLED = 800  # cells beyond this many are drawn in a few paths, without a title each
LEFT, WIDTH, GAP = 8, 1000, 14  # percent kept for the layers' names; units across, and between two columns
HEAD_ROOM = 24  # pixels
PITCHES, SMALLEST_PITCH = ((8, 30), (16, 24), (32, 16), (64, 11)), 7  # (most layers, pixels a layer)


@dataclass(frozen=True)
class Column:
    """The strips of one kind: their place across, and how many cells the widest has."""

    kind: str
    start: float
    width: float


@dataclass(frozen=True)
class Cell:
    layer: int
    kind: str
    index: int
    cells: int  # how many the strip has
    chosen: tuple[Component, ...]
    first: int  # the components it stands for: first ... last
    last: int


def circuit_picture(
    sizes: Sequence[Mapping[str, int]], components: Sequence[Component], scores: Mapping[Component, float]
) -> Markup:
    """Draw the circuit in a model whose layer ``i`` has ``sizes[i][kind]`` components of each kind.

    Raises CcaError for a component that the model lacks.
    """
    columns = _columns(sizes)
    pitch = next((height for most, height in PITCHES if len(sizes) <= most), SMALLEST_PITCH)
    height = len(sizes) * pitch
    drawn = [*_strips(sizes, columns, pitch), *_chosen(_cells(sizes, components), columns, scores, len(sizes), pitch)]
    picture = element(
        "svg", *drawn, x=f"{LEFT}%", y=HEAD_ROOM, width=f"{100 - LEFT}%", height=height,
        viewBox=f"0 0 {WIDTH} {height}", preserveAspectRatio="none",
    )  # fmt: skip
    title = f"The circuit: {formats.counted(len(components), 'component')} in {formats.counted(len(sizes), 'layer')}"
    names = [*_headings(columns), *_layer_names(len(sizes), pitch)]
    return figure(title, HEAD_ROOM + height + 2, *names, picture, kind="plot circuit")


def level(score: float | None, highest: float) -> int:
    """1 (lightest) to `LEVELS`: by the square root of the score, since few components hold most of it."""
    if score is None or highest <= 0:
        return LEVELS
    return 1 + min(LEVELS - 1, int(LEVELS * sqrt(abs(score) / highest)))


def _columns(sizes: Sequence[Mapping[str, int]]) -> list[Column]:
    """Heads get equal cells, at most 45 % of the width together; the neurons the rest."""
    most = {kind: min(max((layer.get(kind, 0) for layer in sizes), default=0), MOST_CELLS[kind]) for kind in KINDS}
    heads = [kind for kind in KINDS if kind != "neuron" and most[kind]]
    gaps = GAP * (len(heads) - (not most["neuron"]))
    room = (0.45 if most["neuron"] else 1.0) * WIDTH - gaps
    unit = min(30.0, room / max(1, sum(most[kind] for kind in heads)))
    columns, at = [], 0.0
    for kind in heads:
        columns.append(Column(kind, at, unit * most[kind]))
        at += unit * most[kind] + GAP
    if most["neuron"]:
        columns.append(Column("neuron", at, WIDTH - at))
    return columns


def _cells(sizes: Sequence[Mapping[str, int]], components: Sequence[Component]) -> list[Cell]:
    chosen: dict[tuple[int, str, int], list[Component]] = {}
    for component in components:
        count = sizes[component.layer].get(component.kind, 0) if component.layer < len(sizes) else 0
        if component.index >= count:
            raise CcaError(f"circuit: {component} is not in the model of this run; make the report's circuit again")
        index = component.index * min(count, MOST_CELLS[component.kind]) // count
        chosen.setdefault((component.layer, component.kind, index), []).append(component)
    made = []
    for (layer, kind, index), own in sorted(chosen.items()):
        count = sizes[layer][kind]
        cells = min(count, MOST_CELLS[kind])
        first, after = (-(-place * count // cells) for place in (index, index + 1))
        made.append(Cell(layer, kind, index, cells, tuple(own), first, after - 1))
    return made


def _strips(sizes: Sequence[Mapping[str, int]], columns: Sequence[Column], pitch: int) -> list[Markup]:
    """The background: what could have been chosen, heads ruled into cells."""
    parts, rules = [], []
    for index, layer in enumerate(sizes):
        y = _top(index, len(sizes), pitch)
        for column in columns:
            count = min(layer.get(column.kind, 0), MOST_CELLS[column.kind])
            if not count:
                continue
            parts.append(element("rect", x=column.start, y=y, width=column.width, height=_bar(pitch), class_="strip"))
            if column.kind != "neuron":
                unit = column.width / count
                rules += [f"M{column.start + n * unit:.1f} {y}v{_bar(pitch)}" for n in range(1, count)]
    ruled = element("path", d="".join(rules), class_="rules", vector_effect="non-scaling-stroke")
    return [*parts, ruled] if rules else parts


def _chosen(
    cells: Sequence[Cell], columns: Sequence[Column], scores: Mapping[Component, float], layers: int, pitch: int
) -> list[Markup]:
    place = {column.kind: column for column in columns}
    highest = max((abs(score) for score in scores.values()), default=0.0)
    paths: dict[int, list[str]] = {}
    titled: list[Markup] = []
    for cell in cells:
        column, y = place[cell.kind], _top(cell.layer, layers, pitch)
        width = column.width / cell.cells
        known = [scores[component] for component in cell.chosen if component in scores]
        shade = level(max(known, key=abs) if known else None, highest)
        x = column.start + cell.index * width
        if len(cells) > MOST_TITLED:
            paths.setdefault(shade, []).append(f"M{x:.1f} {y}h{width:.1f}v{_bar(pitch)}h-{width:.1f}z")
        else:
            title, kind = element("title", _words(cell, known)), f"chosen level{shade}"
            titled.append(element("rect", title, x=x, y=y, width=width, height=_bar(pitch), class_=kind))
    merged = [element("path", d="".join(own), class_=f"chosen level{shade}") for shade, own in sorted(paths.items())]
    return [*titled, *merged]


def _words(cell: Cell, known: Sequence[float]) -> str:
    where = str(cell.chosen[0])
    if cell.last > cell.first:
        where = f"L{cell.layer} {HEADINGS[cell.kind]} {cell.first}–{cell.last}: {len(cell.chosen)} chosen ({where}"
        where += ", …)" if len(cell.chosen) > 1 else ")"
    return where + (f", score {formats.significant(max(known, key=abs))}" if known else "")


def _headings(columns: Sequence[Column]) -> list[Markup]:
    return [
        element("text", (HEADINGS if column.width > 220 else SHORT_HEADINGS)[column.kind],
                x=f"{LEFT + (100 - LEFT) * column.start / WIDTH:.2f}%", y=14, class_="heading")
        for column in columns
    ]  # fmt: skip


def _layer_names(layers: int, pitch: int) -> list[Markup]:
    stride = 1 if pitch >= 14 else 4 if pitch > 8 else 10
    middle = HEAD_ROOM + _bar(pitch) / 2 + 4
    return [
        element("text", f"L{index}", x=f"{LEFT - 1.5}%", y=middle + _top(index, layers, pitch), text_anchor="end")
        for index in range(0, layers, stride)
    ]


def _top(layer: int, layers: int, pitch: int) -> int:
    return (layers - 1 - layer) * pitch


def _bar(pitch: int) -> int:
    return pitch - (5 if pitch > 20 else 3 if pitch > 10 else 1)
