"""``cca patch``: look at patches, put them into models and take them out, compute with them, share them.

Torch is imported by the commands that need it, not before: `cca patch show` must start at once.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table
from rich.text import Text

from cca.cli.console import Force, check_new, console, listed, say
from cca.errors import CcaError
from cca.models.anatomy.components import Component
from cca.patches.claims import MEASURED, REPORT, figures, read_report, report_next_to, with_claims
from cca.patches.patch_content import PatchContent, load_content

if TYPE_CHECKING:
    from cca.patches.patch import Patch

app = typer.Typer(help="Apply, revert, verify, compute with, export and share patches.", no_args_is_help=True)

PatchFile = Annotated[Path, typer.Argument(metavar="PATCH", help="A patch file.")]
Report = Annotated[Path | None, typer.Option(help="The run's report.json; by default the one next to the patch.")]
Model = Annotated[str, typer.Argument(help="A model folder, a hub id, or tinymath.")]
Revision = Annotated[str | None, typer.Option(help="Revision of a hub model; default: the one the patch names.")]
Out = Annotated[Path | None, typer.Option(help="New folder for the written model.")]
InPlace = Annotated[bool, typer.Option("--in-place", help="Edit the folder itself; safe against a kill.")]
Link = Annotated[bool, typer.Option("--link", help="Hard-link the files that do not change instead of copying them.")]
NewPatch = Annotated[Path, typer.Option("--out", help="The patch file to write.")]
AllowSum = Annotated[bool, typer.Option("--allow-sum", help="Add the changes of rows that both patches edit.")]
MOST_COLUMNS = 40
"""Kinds of weight that the table of `show` has; no model has more."""


@app.command()
def show(patch: PatchFile, report: Report = None) -> None:
    """What it touches, by layer and kind; what share that is; the gain it claims and how it was measured."""
    content = load_content(patch)
    made_by = content.header["made_by"]
    held = report_next_to(patch, made_by) if report is None else read_report(report)
    made_by = made_by if held is None else with_claims(made_by, held)
    _line("base", content.base)
    _line("digest", content.header["sha256"])
    dtypes = ", ".join(content.dtypes) or "none"
    _line("edits", f"{content.weights:,} weights in {len(content.parameters)} tensors, {dtypes}")
    _line("file", f"{patch.stat().st_size:,} bytes")
    components = Counter(_component_kind(name) for name in content.header["circuit"])
    if components:
        _line("circuit", ", ".join(f"{count} {kind}" for kind, count in components.items()))
    if "derived" in made_by:
        _line("derived by", f"{str(made_by['derived'])[:80]}; no gain was measured for the result")
    if broken := content.not_finite():
        _line("warning", f"{broken:,} weights to be written are infinite or NaN; apply and merge refuse them")
    claimed = figures(made_by)
    for what, figure in [*claimed, *([("measured", MEASURED)] if claimed else [])]:
        _line(what, figure)
    if content.parameters:
        console.print(_table(content))


def _line(what: str, text: str) -> None:
    say(f"{what:<15} " + "".join(sign if sign.isprintable() else " " for sign in text))


def _component_kind(name: str) -> str:
    try:
        return Component.parse(name).kind
    except CcaError:
        return "other"


def _table(content: PatchContent) -> Table:
    rows = content.rows()
    kinds = list(dict.fromkeys(kind for _, kind in rows))
    shown = kinds[:MOST_COLUMNS]
    table = Table("layer", title="rows edited")
    for kind in shown:
        table.add_column(Text(kind))  # as it is: names come from a stranger
    for layer in sorted({layer for layer, _ in rows}, key=lambda layer: (layer is None, layer or 0)):
        table.add_row("-" if layer is None else str(layer), *(str(rows.get((layer, kind), "")) for kind in shown))
    if len(kinds) > len(shown):
        table.caption = f"and {len(kinds) - len(shown)} other kinds"
    return table


@app.command()
def verify(model: Model, patch: PatchFile, revision: Revision = None) -> None:
    """Say whether a model is the patch's base or is patched with it; read the touched tensors only."""
    from cca.patches.apply import verify as verify_folder
    from cca.patches.hub import local_folder, verify_on_hub

    model, (loaded,) = _model_and_patches(model, [patch])
    if (folder := local_folder(model)) is not None:
        say(f"{model}: {verify_folder(folder, loaded)}")
    else:
        say(f"{model}: {verify_on_hub(model, loaded, revision or loaded.base_revision)}")


@app.command()
def apply(
    model: Model, patch: PatchFile, out: Out = None, in_place: InPlace = False, link: Link = False,
    revision: Revision = None,
) -> None:  # fmt: skip
    """Write a model with the patch, to a new folder or in place."""
    model, (loaded,) = _model_and_patches(model, [patch])
    _write(model, loaded, "after", out, in_place, link, revision)


@app.command()
def revert(
    model: Model, patch: PatchFile, out: Out = None, in_place: InPlace = False, link: Link = False,
    revision: Revision = None,
) -> None:  # fmt: skip
    """Write a patched model without the patch: its base, to the bit."""
    model, (loaded,) = _model_and_patches(model, [patch])
    _write(model, loaded, "before", out, in_place, link, revision)


@app.command()
def merge(
    model: Model,
    patches: Annotated[list[Path], typer.Argument(metavar="PATCH...", help="Patch files on one base.")],
    out: Out = None, in_place: InPlace = False, link: Link = False, revision: Revision = None,
    allow_sum: AllowSum = False,
) -> None:  # fmt: skip
    """Write a model with one or more patches: a plain checkpoint that any server loads."""
    from cca.patches import algebra

    model, (joined, *others) = _model_and_patches(model, patches)
    for other in others:
        joined = algebra.compose(joined, other, allow_sum)
    _write(model, joined, "after", out, in_place, link, revision)


@app.command()
def diff(
    base: Annotated[Path, typer.Argument(help="Folder of the base model.")],
    edited: Annotated[Path, typer.Argument(help="Folder of the same model after a small edit.")],
    out: NewPatch,
    base_model: Annotated[str | None, typer.Option(help="Name the base goes by, as a hub id; default: BASE.")] = None,
    revision: Annotated[str | None, typer.Option(help="Its revision.")] = None,
    force: Force = False,
) -> None:
    """Make a patch of two checkpoints of one model."""
    from cca.patches.diff import diff as diff_folders

    check_new(out, force)  # before the work
    made_by = {"derived": "diff", "from": [str(base), str(edited)]}
    _save(out, diff_folders(base, edited, base_model or str(base), revision, made_by), force)


@app.command()
def compose(
    first: PatchFile, second: PatchFile, out: NewPatch, allow_sum: AllowSum = False, force: Force = False
) -> None:
    """Join two patches on one base; a row that both edit is named."""
    from cca.patches import algebra

    _save(out, algebra.compose(_load(first), _load(second), allow_sum), force)


@app.command()
def scale(
    patch: PatchFile,
    factor: Annotated[float, typer.Argument(help="0 to 2: how much of the edit.")],
    out: NewPatch,
    force: Force = False,
) -> None:
    """Take a part, or up to twice, of the edit."""
    from cca.patches import algebra

    _save(out, algebra.scale(_load(patch), factor), force)


@app.command()
def subset(
    patch: PatchFile,
    out: NewPatch,
    layers: Annotated[str, typer.Option(help="Layers to keep, as 3,5-7; default: all.")] = "",
    kinds: Annotated[str, typer.Option(help="Kinds to keep, as up_proj,q_proj; default: all.")] = "",
    force: Force = False,
) -> None:
    """Keep only the edits of some layers or kinds of weights; `show` lists both."""
    from cca.patches import algebra

    _save(out, algebra.subset(_load(patch), _layers(layers), listed(kinds)), force)


@app.command()
def export(
    patch: PatchFile,
    to: Annotated[
        Literal["lora", "shira", "merged"], typer.Option(help="lora and shira: a PEFT adapter; merged: a whole model.")
    ],
    out: Annotated[Path, typer.Option(help="New folder.")],
    model: Annotated[str | None, typer.Option(help="The base: folder or hub id; default: the patch's.")] = None,
    revision: Revision = None,
    pad_ranks: Annotated[bool, typer.Option("--pad-ranks", help="One rank for all modules, as vLLM needs it.")] = False,
    nearest: Annotated[bool, typer.Option("--nearest", help="Allow weights no addition reaches to the bit.")] = False,
) -> None:
    """Write the patch as a stock PEFT adapter, or merged into its base."""
    from cca.patches.hub import model_config
    from cca.patches.peft_export import export_lora, export_shira

    loaded = _load(patch)
    base = model or loaded.base_model
    if to == "merged":
        _write(base, loaded, "after", out, False, False, revision)
        return
    if pad_ranks and to == "shira":
        raise CcaError("--pad-ranks: SHiRA has no ranks to pad; use it with --to lora")
    config = model_config(base, revision or loaded.base_revision)
    if to == "lora":
        rank = export_lora(loaded, out, config, pad_ranks, nearest)
    else:
        rank = export_shira(loaded, out, config, nearest)
    say(f"{out}: {to} adapter, rank {rank}, for {loaded.base}")


@app.command()
def push(
    patch: PatchFile,
    repo: Annotated[str, typer.Argument(help="Hub repository, as user/name.")],
    report: Report = None,
    private: Annotated[bool, typer.Option("--private", help="If the repository is made.")] = False,
) -> None:
    """Publish the patch on the hub with a model card."""
    from cca.patches import hub

    loaded = _load(patch)
    if report is None and report_next_to(patch, loaded.made_by) is not None:
        report = patch.parent / REPORT
    say(hub.push(loaded, repo, report, private))


@app.command()
def pull(
    repo: Annotated[str, typer.Argument(help="Hub repository with a patch.")],
    out: Annotated[Path, typer.Option(help="The patch file to write.")] = Path("patch.safetensors"),
    revision: Annotated[str | None, typer.Option(help="Revision of the repository.")] = None,
) -> None:
    """Fetch a patch from the hub."""
    from cca.patches import hub

    say(f"{out}: a patch for {hub.pull(repo, out, revision).base}")


def _write(
    model: str, patch: Patch, side: str, out: Path | None, in_place: bool, link: bool, revision: str | None
) -> None:
    from cca.patches.apply import write_copy, write_in_place
    from cca.patches.hub import model_folder

    if in_place == (out is not None):
        raise CcaError("expected either --out FOLDER or --in-place, got " + ("both" if in_place else "neither"))
    if out is None:
        done = write_in_place(Path(model), patch, side)
        verb = "patched" if side == "after" else "reverted"
        how = {"finished": "; an interrupted edit was finished", "already": " already; nothing was written"}
        say(f"{model}: {verb}{how.get(done, '')}")
        return
    written = write_copy(model_folder(model, revision or patch.base_revision), patch, out, side, link)
    say(f"{out}: {len(written.rewritten)} shards with edits, {len(written.kept)} without")
    if written.other_weights:
        say(f"left out, for the patch is not in them: {', '.join(written.other_weights)}")
    if written.outside:
        say(f"left out, for they are no files of the model folder itself: {', '.join(written.outside)}")


def _load(path: Path) -> Patch:
    from cca.patches.patch_file import load_patch

    return load_patch(path)


def _save(out: Path, patch: Patch, force: bool) -> None:
    from cca.patches.patch_file import save_patch

    check_new(out, force)
    save_patch(out, patch)
    say(f"{out}: {patch.parameters_changed:,} weights in {len(patch.edits)} tensors of {patch.base}")


def _model_and_patches(first: str, others: Sequence[Path]) -> tuple[str, list[Patch]]:
    """MODEL and PATCH..., whichever way round they were given: a patch is a file, a model a folder or a hub id."""
    given = [Path(first), *others]
    if _is_patch(given[0]) and not _is_patch(given[-1]):
        return str(given[-1]), [_load(path) for path in given[:-1]]
    return first, [_load(path) for path in others]


def _is_patch(given: Path) -> bool:
    return not given.is_dir() and (given.is_file() or given.suffix == ".safetensors")


def _layers(text: str) -> list[int]:
    """The numbers in a list such as 3,5-7. Raises CcaError for ranges that fall or are beyond every model."""
    layers: list[int] = []
    for part in (piece.strip() for piece in text.split(",") if text.strip()):
        match = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", part, re.ASCII)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if last < first:
            raise CcaError(f"--layers: expected numbers and rising ranges as 3,5-7, got {part[:40]!r}")
        layers += range(first, last + 1)
    return layers
