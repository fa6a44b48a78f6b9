"""Edits in place under kill -9: after one more call the folder is one of the two models, never a mix."""

from __future__ import annotations

import os
import random
import shutil
import signal
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from toy import patched, read_folder, same, toy_patch, toy_weights, write_folder

from cca.errors import CcaError
from cca.models.checkpoint import JOURNALS, open_checkpoint
from cca.patches import stored_rows
from cca.patches.apply import locked, verify, write_copy, write_in_place
from cca.patches.patch import Patch
from disk_calls import recorded

WEIGHTS = toy_weights()
PATCHED = patched(WEIGHTS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "model", WEIGHTS)


@pytest.fixture(scope="module")
def patch() -> Patch:
    return toy_patch(WEIGHTS)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many small writes: many places to be killed at."""
    monkeypatch.setattr(stored_rows, "BLOCK", 48)


def in_child(work: Callable[[], object], before: Callable[[], object] = lambda: None) -> int:
    """Start ``work`` in a forked process; it exits 0 when done. Returns its process id."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            before()
            work()
            code = 0
        finally:
            os._exit(code)
    return child


def ended(child: int) -> str:
    _, status = os.waitpid(child, 0)
    return "killed" if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL else f"exit {status >> 8}"


def only_the_model_is_left(folder: Path) -> bool:
    return not any(path.name.startswith(".") for path in folder.iterdir())


def test_apply_and_revert_in_place(folder: Path, patch: Patch) -> None:
    contents = {path: path.read_bytes() for path in folder.glob("*.safetensors")}
    assert write_in_place(folder, patch) == "written"
    assert same(read_folder(folder), PATCHED)
    assert write_in_place(folder, patch) == "already"
    assert write_in_place(folder, patch, "before") == "written"
    assert contents == {path: path.read_bytes() for path in folder.glob("*.safetensors")}
    assert write_in_place(folder, patch, "before") == "already"
    assert only_the_model_is_left(folder)


def test_the_journal_is_on_disk_before_the_rows_and_the_rows_before_it_goes(
    folder: Path, patch: Patch, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = recorded(monkeypatch)
    write_in_place(folder, patch)
    journal = JOURNALS["after"]
    writes = [number for number, (what, _) in enumerate(calls) if what == "pwrite"]
    gone = calls.index(("unlink", journal))
    assert calls.index(("replace", journal)) < calls.index(("fsync", folder.name)) < writes[0]
    assert calls[calls.index(("replace", journal)) - 1][0] == "fsync"
    for shard in {name for what, name in calls if what == "pwrite"}:
        last = max(number for number in writes if calls[number][1] == shard)
        assert ("fsync", shard) in calls[last:gone]
    assert ("fsync", folder.name) in calls[gone:]


def test_another_base_is_refused_and_not_written(tmp_path: Path, patch: Patch) -> None:
    other = {**WEIGHTS, "rows": PATCHED["rows"] * 2}
    folder = write_folder(tmp_path / "other", other)
    with pytest.raises(CcaError, match=r"^rows: "):
        write_in_place(folder, patch)
    assert same(read_folder(folder), other)
    assert only_the_model_is_left(folder)


def test_folders_that_share_bytes_are_not_changed_with_it(tmp_path: Path, folder: Path, patch: Patch) -> None:
    linked = tmp_path / "linked"
    shutil.copytree(folder, linked, copy_function=os.link)
    cache = tmp_path / "cache"
    shutil.copytree(folder, cache, copy_function=lambda source, target: os.symlink(source, target))
    assert write_in_place(linked, patch) == "written"
    assert write_in_place(cache, patch) == "written"
    assert same(read_folder(linked), PATCHED)
    assert same(read_folder(cache), PATCHED)
    assert same(read_folder(folder), WEIGHTS)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anything")
def test_a_folder_that_may_not_be_written_is_refused_before_anything_is(folder: Path, patch: Patch) -> None:
    (folder / "model-00003-of-00004.safetensors").chmod(stat.S_IRUSR)
    with pytest.raises(CcaError, match="nothing was written"):
        write_in_place(folder, patch)
    assert same(read_folder(folder), WEIGHTS)


def test_a_second_process_is_refused(folder: Path, patch: Patch) -> None:
    with locked(folder), pytest.raises(CcaError, match="another process is writing it"):
        write_in_place(folder, patch)


@pytest.mark.parametrize(("next_side", "linked"), [("after", True), ("before", False)])
def test_killed_at_every_single_write(tmp_path: Path, patch: Patch, next_side: str, linked: bool) -> None:
    """The n-th call that changes the disk is the last, for every n."""
    original = write_folder(tmp_path / "original", WEIGHTS)
    states: set[str] = set()
    for last in range(10_000):
        folder = tmp_path / f"model-{last}"
        shutil.copytree(original, folder, copy_function=os.link if linked else shutil.copy2)

        def arm(last: int = last) -> None:
            die_at_call(last)

        fate = ended(in_child(lambda: write_in_place(folder, patch), arm))  # noqa: B023 (runs within this turn)
        interrupted = (folder / JOURNALS["after"]).exists()
        if interrupted:
            for reader in (
                open_checkpoint,
                lambda it: verify(it, patch),
                lambda it: write_copy(it, patch, tmp_path / "x"),
            ):
                with pytest.raises(CcaError, match="an edit in place was interrupted"):
                    reader(folder)
        else:
            states.add(verify(folder, patch))
        states.add(write_in_place(folder, patch, next_side))
        assert same(read_folder(folder), PATCHED if next_side == "after" else WEIGHTS)
        assert only_the_model_is_left(folder)
        shutil.rmtree(folder)
        if fate == "exit 0":
            break
        assert fate == "killed"
    assert last > 15
    assert same(read_folder(original), WEIGHTS)
    assert states >= {"base", "patched", "written", "already"}
    assert ("finished" in states) == (next_side == "after")


def die_at_call(last: int) -> None:
    """Make this process kill itself at its ``last``-th call that changes the disk; a write is torn then."""
    done = 0

    def wrap(name: str) -> None:
        original = getattr(os, name)

        def wrapped(*arguments: Any, **named: Any) -> Any:
            nonlocal done
            if done == last:
                if name == "pwrite":
                    descriptor, data, start = arguments
                    original(descriptor, data[: len(data) // 2], start)
                os.kill(os.getpid(), signal.SIGKILL)
            done += 1
            return original(*arguments, **named)

        setattr(os, name, wrapped)

    for name in ("pwrite", "replace", "unlink", "fsync", "chmod", "sendfile"):
        if hasattr(os, name):
            wrap(name)


@pytest.mark.usefixtures("small_blocks")
def test_killed_from_outside_at_random_times(tmp_path: Path, patch: Patch) -> None:
    folder = write_folder(tmp_path / "model", WEIGHTS)
    chance = random.Random(0)
    start = time.perf_counter()
    assert ended(in_child(lambda: write_in_place(folder, patch))) == "exit 0"
    duration = time.perf_counter() - start
    fates = []
    for turn in range(50):
        side = ("before", "after")[turn % 2]
        child = in_child(lambda side=side: write_in_place(folder, patch, side))
        time.sleep(chance.uniform(0, 1.2 * duration))
        os.kill(child, signal.SIGKILL)
        fates.append(ended(child))
        duration *= 1.1 if fates[-1] == "killed" else 0.9  # how fast the machine is just now
        write_in_place(folder, patch, side)
        assert same(read_folder(folder), PATCHED if side == "after" else WEIGHTS)
        assert only_the_model_is_left(folder)
    assert fates.count("killed") >= 10


def test_a_kill_while_an_interrupted_edit_is_finished(folder: Path, patch: Patch) -> None:
    ended(in_child(lambda: write_in_place(folder, patch), lambda: die_at_call(12)))
    assert (folder / JOURNALS["after"]).exists()
    for last in range(8):
        assert ended(in_child(lambda: write_in_place(folder, patch), lambda last=last: die_at_call(last))) == "killed"
    assert write_in_place(folder, patch) == "finished"
    assert same(read_folder(folder), PATCHED)


def test_another_patch_comes_after_the_interrupted_one_is_finished(folder: Path, patch: Patch) -> None:
    ended(in_child(lambda: write_in_place(folder, patch), lambda: die_at_call(12)))
    other = toy_patch(WEIGHTS, change=-3, names=("rows",))
    with pytest.raises(CcaError, match=r"^rows: its rows are neither"):
        write_in_place(folder, other)
    assert same(read_folder(folder), PATCHED)
    assert only_the_model_is_left(folder)


def test_weights_replaced_since_the_interruption_are_not_overwritten(folder: Path, patch: Patch) -> None:
    ended(in_child(lambda: write_in_place(folder, patch), lambda: die_at_call(12)))
    journal = (folder / JOURNALS["after"]).read_bytes()
    shutil.rmtree(folder)
    other = toy_weights(seed=1)
    (write_folder(folder, other) / JOURNALS["after"]).write_bytes(journal)
    with pytest.raises(CcaError, match="weights were changed since"):
        write_in_place(folder, patch)
    assert same(read_folder(folder), other)
