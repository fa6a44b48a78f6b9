"""Which device a model is put on, who is told, and that it may change while a run goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

import tiny_run
from cca.cli.evaluate import Asked, evaluate
from cca.engines.engine import Progress
from cca.errors import CcaError
from cca.models.loading import choose_device, load_model
from cca.runs.config import load_config
from cca.runs.open import open_run


class Listener:
    """A `RunProgress` that keeps everything in order."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def say(self, text: str) -> None:
        self.heard.append(text)

    @contextmanager
    def work(self, what: str, total: int | None) -> Iterator[Progress]:
        del total
        self.heard.append(what)
        yield lambda _: None


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    cuda, mps = request.param
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("machine", "asked", "expected"),
    [
        ((2, True), None, "cuda"),
        ((0, True), None, "mps"),
        ((0, False), None, "cpu"),
        ((2, True), "cpu", "cpu"),
        ((2, True), "cuda:1", "cuda:1"),
        ((2, True), "mps", "mps"),
    ],
    indirect=["machine"],
)
def test_the_choice(asked: str | None, expected: str) -> None:
    assert choose_device(asked) == expected


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("machine", "asked", "here"),
    [
        ((2, False), "cuda:2", "cuda:0, cuda:1, cpu"),
        ((2, False), "mps", "cuda:0, cuda:1, cpu"),
        ((0, True), "cuda", "mps, cpu"),
        ((0, False), "meta", "cpu"),
        ((0, False), "cpu:1", "cpu"),
        ((0, False), "gpu", "cpu"),
        ((0, False), "", "cpu"),
    ],
    indirect=["machine"],
)
def test_a_device_that_is_not_there_is_refused_in_one_line(asked: str, here: str) -> None:
    with pytest.raises(CcaError) as refusal:
        choose_device(asked)
    assert str(refusal.value).startswith(f"device: expected one that is here ({here}), got {asked!r}; ")
    assert "\n" not in str(refusal.value)


def test_a_run_says_its_device_first_and_keeps_it(tmp_path: Path) -> None:
    path = tiny_run.make(tmp_path, device="cpu")
    heard = Listener()
    with open_run(load_config(path), heard) as opened:
        assert opened.model.device == torch.device("cpu")
    assert heard.heard[0] == "device: cpu"
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["hardware"]["device"] == "cpu"
    # null is another value of the key and on this machine another device or the same: the run goes on with either
    with open_run(load_config(path, ["device=null"]), heard := Listener()) as opened:
        assert opened.model.device.type == choose_device()
        assert opened.folder.config().device == "cpu"
    assert heard.heard[0] == f"device: {choose_device()}"
    assert load_model(str(tmp_path / "model")).model.device.type == choose_device(), "without being asked, too"


def test_another_device_than_the_run_began_on_is_told(tmp_path: Path) -> None:
    config = load_config(tiny_run.make(tmp_path, device="cpu"))
    with open_run(config, Listener()) as opened:
        fingerprints, origin = opened.fingerprints, opened.task.origin
        opened.folder.begin(config, fingerprints, "cuda", task=origin)  # as if on another machine
    with open_run(config, heard := Listener()):
        pass
    assert any(text.startswith("device changed since") and text.endswith("cuda -> cpu") for text in heard.heard)


def test_a_device_and_a_device_map_are_refused(tmp_path: Path) -> None:
    path = tiny_run.make(tmp_path)
    with pytest.raises(CcaError, match=r"'device': expected none with device_map 'auto'; .*got 'cpu'"):
        load_config(path, ["device_map=auto", "device=cpu"])
    assert load_config(path, ["device_map=auto", "device=null"]).device_map == "auto"


def test_evaluate_says_and_writes_the_device(tmp_path: Path) -> None:
    tiny_run.make(tmp_path)
    wanted = Asked(
        str(tmp_path / "test.jsonl"), str(tmp_path / "model"), max_new_tokens=2, device="cpu",
        overrides=("judge=regex",), out=tmp_path / "results.json",
    )  # fmt: skip
    row = evaluate(wanted, heard := Listener())
    assert heard.heard[0] == "device: cpu"
    assert json.loads(wanted.out.read_text())["device"] == row["device"] == "cpu"
