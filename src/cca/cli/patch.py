"""``cca patch``: look at patches, put them into models and take them out, compute with them, share them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cca.cli.console import Force, check_new, say
from cca.cli.patch_show import PatchFile, show
from cca.errors import CcaError

if TYPE_CHECKING:  # it needs torch, and `cca patch show` must start at once
    from cca.patches.patch import Patch

app = typer.Typer(help="Apply, revert, verify, compute with, export and share patches.", no_args_is_help=True)

Model = Annotated[str, typer.Argument(help="A model folder, a hub id, or tinymath.")]
Revision = Annotated[str | None, typer.Option(help="Revision of a hub model; default: the one the patch names.")]
Out = Annotated[Path | None, typer.Option(help="New folder for the written model.")]
InPlace = Annotated[bool, typer.Option("--in-place", help="Edit the folder itself; safe against a kill.")]
Link = Annotated[bool, typer.Option("--link", help="Hard-link the files that do not change instead of copying them.")]
NewPatch = Annotated[Path, typer.Option("--out", help="The patch file to write.")]
AllowSum = Annotated[bool, typer.Option("--allow-sum", help="Add the changes of rows that both patches edit.")]


class Target(StrEnum):
    lora = "lora"
    shira = "shira"
    merged = "merged"


app.command()(show)


@app.command()
def verify(model: Model, patch: PatchFile, revision: Revision = None) -> None:
    """Say whether a model is the patch's base or is patched with it; read the touched tensors only."""
    from cca.patches.apply import verify as verify_folder
    from cca.patches.hub import local_folder, verify_on_hub

    model, (loaded,) = _model_and_patches(model, [patch])
    folder = local_folder(model)
    if folder is not None:
        state = verify_folder(folder, loaded)
    else:
        state = verify_on_hub(model, loaded, revision or loaded.base_revision)
    say(f"{model}: {state}")


@app.command()
def apply(
    model: Model,
    patch: PatchFile,
    out: Out = None,
    in_place: InPlace = False,
    link: Link = False,
    revision: Revision = None,
) -> None:
    """Write a model with the patch, to a new folder or in place."""
    model, (loaded,) = _model_and_patches(model, [patch])
    _write(model, loaded, "after", out, in_place, link, revision)


@app.command()
def revert(
    model: Model,
    patch: PatchFile,
    out: Out = None,
    in_place: InPlace = False,
    link: Link = False,
    revision: Revision = None,
) -> None:
    """Write a patched model without the patch: its base, to the bit."""
    model, (loaded,) = _model_and_patches(model, [patch])
    _write(model, loaded, "before", out, in_place, link, revision)


@app.command()
def merge(
    model: Model,
    patches: Annotated[list[Path], typer.Argument(metavar="PATCH...", help="Patch files on one base.")],
    out: Out = None,
    in_place: InPlace = False,
    link: Link = False,
    revision: Revision = None,
    allow_sum: AllowSum = False,
) -> None:
    """Write a model with one or more patches: a plain checkpoint that any server loads."""
    from cca.patches.algebra import compose as compose_patches

    model, (first, *others) = _model_and_patches(model, patches)
    for other in others:
        first = compose_patches(first, other, allow_sum)
    _write(model, first, "after", out, in_place, link, revision)


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
    check_new(out, force)
    from cca.patches.diff import diff as diff_folders

    made_by = {"derived": "diff", "from": [str(base), str(edited)]}
    _save(out, diff_folders(base, edited, base_model or str(base), revision, made_by))


@app.command()
def compose(
    first: PatchFile, second: PatchFile, out: NewPatch, allow_sum: AllowSum = False, force: Force = False
) -> None:
    """Join two patches on one base; a row that both edit is named."""
    check_new(out, force)
    from cca.patches.algebra import compose as compose_patches
    from cca.patches.patch_file import load_patch

    _save(out, compose_patches(load_patch(first), load_patch(second), allow_sum))


@app.command()
def scale(
    patch: PatchFile,
    factor: Annotated[float, typer.Argument(help="0 to 2: how much of the edit.")],
    out: NewPatch,
    force: Force = False,
) -> None:
    """Take a part, or up to twice, of the edit."""
    check_new(out, force)
    from cca.patches.algebra import scale as scale_patch
    from cca.patches.patch_file import load_patch

    _save(out, scale_patch(load_patch(patch), factor))


@app.command()
def subset(
    patch: PatchFile,
    out: NewPatch,
    layers: Annotated[str, typer.Option(help="Layers to keep, as 3,5-7; default: all.")] = "",
    kinds: Annotated[str, typer.Option(help="Kinds to keep, as up_proj,q_proj; default: all.")] = "",
    force: Force = False,
) -> None:
    """Keep only the edits of some layers or kinds of weights; `show` lists both."""
    numbers = _layers(layers)
    check_new(out, force)
    from cca.patches.algebra import subset as subset_patch
    from cca.patches.patch_file import load_patch

    wanted = [kind.strip() for kind in kinds.split(",") if kind.strip()]
    _save(out, subset_patch(load_patch(patch), numbers, wanted))


@app.command()
def export(
    patch: PatchFile,
    to: Annotated[Target, typer.Option(help="lora and shira: a PEFT adapter; merged: a whole model.")],
    out: Annotated[Path, typer.Option(help="New folder.")],
    model: Annotated[
        str | None, typer.Option(help="The base: folder or hub id; default: as the patch names it.")
    ] = None,
    revision: Revision = None,
    pad_ranks: Annotated[bool, typer.Option("--pad-ranks", help="One rank for all modules, as vLLM needs it.")] = False,
    nearest: Annotated[bool, typer.Option("--nearest", help="Allow weights no addition reaches to the bit.")] = False,
) -> None:
    """Write the patch as a stock PEFT adapter, or merged into its base."""
    from cca.patches.hub import model_config
    from cca.patches.patch_file import load_patch
    from cca.patches.peft_export import export_lora, export_shira

    loaded = load_patch(patch)
    base = model or loaded.base_model
    if to is Target.merged:
        _write(base, loaded, "after", out, False, False, revision)
        return
    if pad_ranks and to is Target.shira:
        raise CcaError("--pad-ranks: SHiRA has no ranks to pad; use it with --to lora")
    config = model_config(base, revision or loaded.base_revision)
    if to is Target.lora:
        rank = export_lora(loaded, out, config, pad_ranks, nearest)
    else:
        rank = export_shira(loaded, out, config, nearest)
    say(f"{out}: {to.value} adapter, rank {rank}, for {loaded.base}")


@app.command()
def push(
    patch: PatchFile,
    repo: Annotated[str, typer.Argument(help="Hub repository, as user/name.")],
    report: Annotated[
        Path | None, typer.Option(help="The run's report.json; by default the one next to the patch.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="If the repository is made.")] = False,
) -> None:
    """Publish the patch on the hub with a model card."""
    from cca.patches.claims import REPORT, claims_beside
    from cca.patches.hub import push as push_patch
    from cca.patches.patch_file import load_patch

    loaded = load_patch(patch)
    if report is None and claims_beside(patch, loaded.made_by) is not None:
        report = patch.parent / REPORT
    say(push_patch(loaded, repo, report, private))


@app.command()
def pull(
    repo: Annotated[str, typer.Argument(help="Hub repository with a patch.")],
    out: Annotated[Path, typer.Option(help="The patch file to write.")] = Path("patch.safetensors"),
    revision: Annotated[str | None, typer.Option(help="Revision of the repository.")] = None,
) -> None:
    """Fetch a patch from the hub."""
    from cca.patches.hub import pull as pull_patch

    loaded = pull_patch(repo, out, revision)
    say(f"{out}: a patch for {loaded.base}")


def _write(
    model: str, patch: Patch, side: str, out: Path | None, in_place: bool, link: bool, revision: str | None
) -> None:
    from cca.patches.apply import write_copy, write_in_place
    from cca.patches.hub import model_folder

    if in_place == (out is not None):
        raise CcaError("expected either --out FOLDER or --in-place, got " + ("both" if in_place else "neither"))
    if in_place:
        done = write_in_place(Path(model), patch, side)
        verb = "patched" if side == "after" else "reverted"
        how = {"finished": "; an interrupted edit was finished", "already": " already; nothing was written"}
        say(f"{model}: {verb}{how.get(done, '')}")
        return
    assert out is not None
    written = write_copy(model_folder(model, revision or patch.base_revision), patch, out, side, link)
    say(f"{out}: {len(written.rewritten)} shards with edits, {len(written.kept)} without")
    if written.other_weights:
        say(f"left out, for the patch is not in them: {', '.join(written.other_weights)}")
    if written.outside:
        say(f"left out, for they are no files of the model folder itself: {', '.join(written.outside)}")


def _save(out: Path, patch: Patch) -> None:
    from cca.patches.patch_file import save_patch

    save_patch(out, patch)
    say(f"{out}: {patch.parameters_changed:,} weights in {len(patch.edits)} tensors of {patch.base}")


def _model_and_patches(first: str, others: Sequence[Path]) -> tuple[str, list[Patch]]:
    """MODEL and PATCH..., whichever way round they were given: a patch is a file, a model a folder or a hub id."""
    from cca.patches.patch_file import load_patch

    given = [Path(first), *others]
    if _is_patch(given[0]) and not _is_patch(given[-1]):
        return str(given[-1]), [load_patch(path) for path in given[:-1]]
    return first, [load_patch(path) for path in others]


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
