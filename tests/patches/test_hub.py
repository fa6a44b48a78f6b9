"""Push, pull and verify against a hub on this machine, through the hub library itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from fake_hub import FakeHub, fake_hub
from toy import REPORT, patched, toy_patch, toy_weights, write_folder

from cca.errors import CcaError
from cca.files import write_json
from cca.patches.hub import model_config, model_folder, pull, push, verify_on_hub
from cca.patches.patch_file import load_patch, to_bytes


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_XET_CACHE", str(tmp_path / "xet"))
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    with fake_hub() as running:
        use(running.endpoint, monkeypatch)
        yield running


def use(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make ``endpoint`` the hub, as HF_ENDPOINT does when the hub library is imported."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
    template = f"{endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)


def test_what_is_pushed_is_pulled(tmp_path: Path, hub: FakeHub) -> None:
    patch = toy_patch(toy_weights())
    write_json(tmp_path / "report.json", REPORT)
    url = push(patch, "someone/sums", tmp_path / "report.json")
    assert url.startswith(f"{hub.endpoint}/someone/sums/commit/")
    assert hub.files["someone/sums"].keys() == {"patch.safetensors", "README.md", "report.json"}
    card = hub.files["someone/sums"]["README.md"].decode()
    assert "+25.0 points [+20.0, +30.0], 50.0% to 75.0%" in card
    pulled = pull("someone/sums", tmp_path / "patch.safetensors")
    assert pulled == load_patch(tmp_path / "patch.safetensors")
    assert pulled.edits == patch.edits
    assert pulled.made_by["claims"]["gain"] == REPORT["gain"]
    with pytest.raises(CcaError, match="expected a new file"):
        pull("someone/sums", tmp_path / "patch.safetensors")


def test_a_damaged_patch_is_not_pulled(tmp_path: Path, hub: FakeHub) -> None:
    content = bytearray(to_bytes(toy_patch(toy_weights())))
    content[-1] ^= 1
    hub.files["someone/sums"] = {"patch.safetensors": bytes(content)}
    with pytest.raises(CcaError, match="digest"):
        pull("someone/sums", tmp_path / "patch.safetensors")
    assert not (tmp_path / "patch.safetensors").exists()


def uploaded(hub: FakeHub, folder: Path) -> str:
    hub.files["someone/model"] = {str(path.relative_to(folder)): path.read_bytes() for path in folder.glob("*.*")}
    return "someone/model"


def test_verify_on_the_hub_fetches_touched_tensors_only(tmp_path: Path, hub: FakeHub) -> None:
    weights = toy_weights()
    weights["untouched"] = torch.zeros(500, 500)
    patch = toy_patch(weights, names=("rows", "experts"))
    after = {**weights, "rows": patched(weights)["rows"], "experts": patched(weights)["experts"]}
    for state, held in (("base", weights), ("patched", after)):
        repo = uploaded(hub, write_folder(tmp_path / state, held))
        hub.sent.clear()
        assert verify_on_hub(repo, patch) == state
        assert hub.sent["model-00001-of-00004.safetensors"] < 1000
        assert hub.sent["model-00004-of-00004.safetensors"] < 1000  # of a megabyte: its header
    other = {**weights, "rows": weights["rows"] + 1}
    repo = uploaded(hub, write_folder(tmp_path / "other", other))
    with pytest.raises(CcaError, match=r"^rows: .*the patch was made on toy"):
        verify_on_hub(repo, patch)


def test_without_a_connection_the_cache_is_verified(
    tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    patch = toy_patch(toy_weights())
    repo = uploaded(hub, write_folder(tmp_path / "base", toy_weights()))
    model_folder(repo)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert verify_on_hub(repo, patch) == "base"
    with pytest.raises(CcaError, match="cannot be had from the hub"):
        verify_on_hub("no/model", patch)


def test_models_and_configurations_come_from_folders_or_the_hub(tmp_path: Path, hub: FakeHub) -> None:
    folder = write_folder(tmp_path / "model", toy_weights())
    write_json(folder / "config.json", {"model_type": "toy"})
    repo = uploaded(hub, folder)
    assert model_folder(str(folder)) == folder
    assert model_config(str(folder)) == model_config(repo) == {"model_type": "toy"}
    fetched = model_folder(repo)
    names = {path.name for path in folder.glob("*.*")} - {"pytorch_model.bin"}
    assert {path.name for path in fetched.iterdir()} == names


@pytest.mark.usefixtures("hub")
def test_what_the_hub_lacks_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patch = toy_patch(toy_weights())
    for call in (
        lambda: verify_on_hub("no/model", patch),
        lambda: pull("no/patch", tmp_path / "out"),
        lambda: model_config("no/model"),
        lambda: model_folder("not a name"),
        lambda: use("http://127.0.0.1:9", monkeypatch) or push(patch, "no/patch"),
    ):
        with pytest.raises(CcaError, match="cannot be had from the hub") as refusal:
            call()
        assert "\n" not in str(refusal.value)
