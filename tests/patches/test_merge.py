"""Patched copies of a checkpoint on disk: right to the bit, whole or absent, the source never touched."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from toy import PLACES, patched, read_folder, same, toy_patch, toy_weights, write_folder

from cca.errors import CcaError
from cca.patches import stored_rows
from cca.patches.apply import locked, verify, write_copy, write_in_place
from cca.patches.patch import Patch
from cca.patches.patch_file import save_patch

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
WEIGHTS = toy_weights()
PATCHED = patched(WEIGHTS)
PATCH = toy_patch(WEIGHTS)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "base", WEIGHTS)


@pytest.fixture(params=[8 << 20, 48], ids=["whole", "tiny-blocks"])
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Also with blocks so small that every tensor, and every expert, is cut in several."""
    monkeypatch.setattr(stored_rows, "BLOCK", request.param)
    return request.param


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.usefixtures("block")
def test_merge_and_revert_are_exact(tmp_path: Path, dtype: torch.dtype) -> None:
    weights = toy_weights(dtype)
    base = write_folder(tmp_path / "base", weights)
    patch = toy_patch(weights)
    written = write_copy(base, patch, tmp_path / "merged")
    assert same(read_folder(tmp_path / "merged"), patched(weights))
    assert same(read_folder(base), weights)
    assert written.rewritten == [f"model-{n:05d}-of-00004.safetensors" for n in (1, 2, 3)]
    assert written.kept == ["model-00004-of-00004.safetensors"]
    write_copy(tmp_path / "merged", patch, tmp_path / "reverted", side="before")
    for shard in base.glob("*.safetensors"):
        assert (tmp_path / "reverted" / shard.name).read_bytes() == shard.read_bytes()


@pytest.mark.usefixtures("block")
def test_verify_tells_base_and_patched_apart(tmp_path: Path) -> None:
    assert verify(write_folder(tmp_path / "base", WEIGHTS), PATCH) == "base"
    assert verify(write_folder(tmp_path / "patched", PATCHED), PATCH) == "patched"


def test_other_files_are_kept_and_other_weights_left_out(tmp_path: Path, base: Path) -> None:
    written = write_copy(base, PATCH, tmp_path / "deep" / "merged")
    assert written.other_weights == ["pytorch_model.bin"]
    kept = {str(path.relative_to(base)) for path in base.rglob("*")} - {"pytorch_model.bin"}
    assert {str(path.relative_to(written.out)) for path in written.out.rglob("*")} == kept
    assert (written.out / "assets" / "note.txt").read_text() == "kept"
    assert sorted(path.name for path in written.out.parent.iterdir()) == ["merged"]


def test_links_are_only_made_on_request_and_never_of_touched_shards(tmp_path: Path, base: Path) -> None:
    patch = toy_patch(WEIGHTS, names=("rows",))
    for out, linked in ((tmp_path / "copied", False), (tmp_path / "linked", True)):
        write_copy(base, patch, out, link=linked)
        same_file = {path.name: path.samefile(base / path.name) for path in out.glob("*.safetensors")}
        assert same_file == {name: linked and name != "model-00001-of-00004.safetensors" for name in sorted(same_file)}
    assert same(read_folder(base), WEIGHTS)


def test_links_out_of_the_folder_are_not_followed(tmp_path: Path, base: Path) -> None:
    """But for the weights themselves, which may lie on another disk."""
    (tmp_path / "secret").write_text("secret")
    (base / "notes.txt").symlink_to(tmp_path / "secret")
    (base / "assets" / "inner").symlink_to(tmp_path / "secret")
    (base / "all").symlink_to(base)
    (base / "gone").symlink_to(tmp_path / "nowhere")
    (base / "within").symlink_to(base / "tokenizer.json")
    os.mkfifo(base / "pipe")
    shard = base / "model-00001-of-00004.safetensors"
    shard.rename(tmp_path / "blob")
    shard.symlink_to(tmp_path / "blob")
    written = write_copy(base, PATCH, tmp_path / "merged")
    assert written.outside == ["all", "assets/inner", "gone", "notes.txt", "pipe"]
    assert same(read_folder(tmp_path / "merged"), PATCHED)
    assert (tmp_path / "merged" / "within").read_text() == "{}"
    assert not any("secret" in str(path.read_bytes()) for path in written.out.rglob("*") if path.is_file())


def test_a_stale_index_is_left_out(tmp_path: Path, base: Path) -> None:
    """Servers that prefer the index would look for shards that are not there."""
    save_file(WEIGHTS, base / "model.safetensors", metadata={"format": "pt"})
    written = write_copy(base, PATCH, tmp_path / "merged")
    assert "model.safetensors.index.json" in written.other_weights
    assert same(read_folder(tmp_path / "merged"), PATCHED)


def test_modes_are_those_of_the_originals_and_the_umask(tmp_path: Path, base: Path) -> None:
    shard = "model-00001-of-00004.safetensors"
    (base / shard).chmod(0o600)
    (base / "tokenizer.json").chmod(0o444)
    write_copy(base, PATCH, tmp_path / "open")
    before = os.umask(0o077)
    try:
        write_copy(base, PATCH, tmp_path / "closed")
        save_patch(tmp_path / "patch", PATCH)
    finally:
        os.umask(before)
    os.link(base / shard, tmp_path / "second-name")
    write_in_place(base, PATCH)
    modes = {path: stat.S_IMODE((tmp_path / path).stat().st_mode) for path in (
        f"open/{shard}", "open/tokenizer.json", "closed/model-00002-of-00004.safetensors", "patch", f"base/{shard}",
    )}  # fmt: skip
    assert list(modes.values()) == [0o600, 0o644, 0o600, 0o600, 0o600]


def test_a_copy_is_flushed_before_it_gets_its_name(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in ("fsync", "rename"):
        original = getattr(os, name)

        def noted(what: Any, *more: Any, name: str = name, original: Any = original) -> Any:
            path = Path(os.readlink(f"/proc/self/fd/{what}")) if isinstance(what, int) else Path(what)
            calls.append(f"{name} {path.name}")
            return original(what, *more)

        monkeypatch.setattr(os, name, noted)
    written = write_copy(base, PATCH, tmp_path / "merged")
    renamed = calls.index("rename .merged.partial")
    flushed = {call.removeprefix("fsync ") for call in calls[:renamed]}
    assert flushed >= {path.name for path in written.out.rglob("*")} | {".merged.partial"}
    assert calls[renamed + 1 :] == [f"fsync {tmp_path.name}"]


def test_a_folder_of_links_such_as_the_hub_cache_is_copied(tmp_path: Path) -> None:
    blobs = write_folder(tmp_path / "blobs", WEIGHTS)
    snapshot = tmp_path / "snapshots" / "main"
    snapshot.mkdir(parents=True)
    for path in blobs.iterdir():
        if path.is_dir():
            continue  # the cache links files alone
        (snapshot / path.name).symlink_to(path)
    write_copy(snapshot, PATCH, tmp_path / "merged")
    assert same(read_folder(tmp_path / "merged"), PATCHED)
    assert same(read_folder(blobs), WEIGHTS)
    assert not any(path.is_symlink() for path in (tmp_path / "merged").iterdir())


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("where", ["touched", "elsewhere"])
def test_another_base_is_refused_by_name_and_nothing_is_written(tmp_path: Path, name: str, where: str) -> None:
    other = {key: tensor.clone() for key, tensor in WEIGHTS.items()}
    if where == "touched":
        other[name] = PATCHED[name] * 2 - WEIGHTS[name]  # twice the edit: neither before nor after
    else:
        flat = other[name].view(-1)
        untouched = (PATCHED[name].view(-1) == WEIGHTS[name].view(-1)).nonzero()
        flat[untouched[-1]] += 1
    folder = write_folder(tmp_path / "other", other)
    with pytest.raises(CcaError, match=rf"^{name}: .*the patch was made on toy at revision v1") as refusal:
        write_copy(folder, PATCH, tmp_path / "out")
    assert "\n" not in str(refusal.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other"]


def test_a_mix_of_base_and_patched_is_refused(tmp_path: Path) -> None:
    mixed = {**WEIGHTS, "rows": PATCHED["rows"]}
    with pytest.raises(CcaError, match=r"^rows: is patched, but bias is base; fetch toy at revision v1 again"):
        verify(write_folder(tmp_path / "mixed", mixed), PATCH)


def test_applying_to_a_patched_model_is_refused(tmp_path: Path, base: Path) -> None:
    folder = write_folder(tmp_path / "patched", PATCHED)
    with pytest.raises(CcaError, match="is patched already; expected the base model"):
        write_copy(folder, PATCH, tmp_path / "out")
    with pytest.raises(CcaError, match="is base already; expected the patched model"):
        write_copy(base, PATCH, tmp_path / "out", side="before")


def test_another_dtype_or_shape_or_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CcaError, match=r"the patch is float32, .* stores BF16"):
        verify(write_folder(tmp_path / "bf16", toy_weights(torch.bfloat16)), PATCH)
    with pytest.raises(CcaError, match=r"^rows: expected shape \[9, 6\] in .*, got \[10, 6\]"):
        verify(write_folder(tmp_path / "shape", {**WEIGHTS, "rows": torch.zeros(10, 6)}), PATCH)
    short = {name: tensor for name, tensor in WEIGHTS.items() if name != "experts"}
    with pytest.raises(CcaError, match=r"^experts: .*it has no such tensor"):
        verify(write_folder(tmp_path / "name", short), PATCH)


def test_the_target_must_be_new(tmp_path: Path, base: Path) -> None:
    (tmp_path / "empty").mkdir()
    write_copy(base, PATCH, tmp_path / "empty")
    assert same(read_folder(tmp_path / "empty"), PATCHED)
    for taken in ("base", "empty"):
        with pytest.raises(CcaError, match="expected a new folder"):
            write_copy(base, PATCH, tmp_path / taken)
    assert same(read_folder(base), WEIGHTS)


def test_what_a_killed_copy_left_is_replaced(tmp_path: Path, base: Path) -> None:
    shutil.copytree(base, tmp_path / ".merged.partial")
    (tmp_path / ".merged.partial" / "stale").write_text("")
    write_copy(base, PATCH, tmp_path / "merged")
    assert not (tmp_path / "merged" / "stale").exists()
    assert same(read_folder(tmp_path / "merged"), PATCHED)


def test_a_second_process_on_the_same_target_is_refused(tmp_path: Path, base: Path) -> None:
    (tmp_path / ".merged.partial").mkdir()
    with locked(tmp_path / ".merged.partial"), pytest.raises(CcaError, match="another process is writing"):
        write_copy(base, PATCH, tmp_path / "merged")


def test_a_failed_copy_leaves_nothing(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("cca.patches.apply.write_rows", failing)
    with pytest.raises(OSError, match="disk full"):
        write_copy(base, PATCH, tmp_path / "merged")
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_tied_copies_are_all_edited(tmp_path: Path) -> None:
    tied = Patch(**{**vars(toy_patch(WEIGHTS, names=("rows",))), "tied": {"rows": ["untouched"]}})
    both = {**WEIGHTS, "untouched": WEIGHTS["rows"].clone()}
    write_copy(write_folder(tmp_path / "both", both), tied, tmp_path / "merged")
    merged = read_folder(tmp_path / "merged")
    assert torch.equal(merged["rows"], PATCHED["rows"])
    assert torch.equal(merged["untouched"], merged["rows"])
    del both["rows"]  # stored once, under the other name
    write_copy(write_folder(tmp_path / "one", both), tied, tmp_path / "merged-one")
    assert torch.equal(read_folder(tmp_path / "merged-one")["untouched"], merged["rows"])


def test_a_patch_without_edits_copies(tmp_path: Path, base: Path) -> None:
    empty = Patch((), "toy", None, {}, {})
    assert write_copy(base, empty, tmp_path / "copy").rewritten == []
    assert same(read_folder(tmp_path / "copy"), WEIGHTS)
