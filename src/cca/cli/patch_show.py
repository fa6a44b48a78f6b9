"""``cca patch show``: the content of a patch file, read without torch."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from cca.cli.console import console, say
from cca.errors import CcaError
from cca.models.anatomy.components import Component
from cca.patches.patch_content import PatchContent, load_content

PatchFile = Annotated[Path, typer.Argument(metavar="PATCH", help="A patch file.")]
MOST_COLUMNS = 40
"""Kinds of weight that the table shows; no model has more."""


def show(
    patch: PatchFile,
    report: Annotated[
        Path | None, typer.Option(help="The run's report.json; by default the one next to the patch.")
    ] = None,
) -> None:
    """What it touches, by layer and kind; what share that is; the gain it claims and how it was measured."""
    from cca.patches.claims import MEASURED, figures

    content = _claiming(load_content(patch), patch, report)
    dtypes = ", ".join(content.dtypes) or "none"
    _line("base", content.base)
    _line("digest", content.header["sha256"])
    _line("edits", f"{content.weights:,} weights in {len(content.parameters)} tensors, {dtypes}")
    _line("file", f"{patch.stat().st_size:,} bytes")
    components = Counter(_component_kind(name) for name in content.header["circuit"])
    if components:
        _line("circuit", ", ".join(f"{count} {kind}" for kind, count in components.items()))
    if "derived" in content.made_by:
        _line("derived by", f"{str(content.made_by['derived'])[:80]}; no gain was measured for the result")
    if broken := content.not_finite():
        _line("warning", f"{broken:,} weights to be written are infinite or NaN; apply and merge refuse them")
    claimed = figures(content)
    for what, figure in [*claimed, *([("measured", MEASURED)] if claimed else [])]:
        _line(what, figure)
    if content.parameters:
        console.print(_table(content))


def _claiming(content: PatchContent, patch: Path, report: Path | None) -> PatchContent:
    """The content with the figures of the report, if there is one."""
    from cca.patches.claims import claims_beside, read_report, with_claims

    figures = claims_beside(patch, content.made_by) if report is None else read_report(report)
    return content if figures is None else with_claims(content, figures)


def _table(content: PatchContent) -> Table:
    rows = content.rows()
    kinds = list(dict.fromkeys(kind for _, kind in rows))
    layers = sorted({layer for layer, _ in rows}, key=lambda layer: (layer is None, layer or 0))
    shown = kinds[:MOST_COLUMNS]
    table = Table("layer", title="rows edited")
    for kind in shown:
        table.add_column(Text(kind))  # as it is: names come from a stranger
    for layer in layers:
        cells = [str(rows.get((layer, kind), "")) for kind in shown]
        table.add_row("-" if layer is None else str(layer), *cells)
    if len(kinds) > len(shown):
        table.caption = f"and {len(kinds) - len(shown)} other kinds"
    return table


def _component_kind(name: str) -> str:
    try:
        return Component.parse(name).kind
    except CcaError:
        return "other"


def _line(what: str, text: str) -> None:
    say(f"{what:<15} " + "".join(sign if sign.isprintable() else " " for sign in text))
