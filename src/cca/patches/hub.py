"""Patches and models on the Hugging Face hub: push with a model card, pull, and verify without a download.

Which hub (``HF_ENDPOINT``) and with which token is the hub library's business.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from cca.errors import CcaError
from cca.files import read_json, write_text
from cca.models.checkpoint import (
    MOST_HEADER,
    choose_weights,
    list_shards,
    open_checkpoint,
    read_config,
    refuse_half_edited,
)
from cca.patches.apply import verify
from cca.patches.claims import model_card, read_report, with_claims
from cca.patches.layout import match_edits
from cca.patches.patch import Patch
from cca.patches.patch_file import load_patch, save_patch
from cca.tinymath import BUNDLED_MODEL

FILE = "patch.safetensors"
CHUNK = 64 << 20  # bytes a range request asks for


def push(patch: Patch, repo: str, report: Path | None = None, private: bool = False) -> str:
    """Upload the patch, a model card and the report to ``repo``, made if absent; returns the commit's URL."""
    from huggingface_hub import HfApi

    with tempfile.TemporaryDirectory() as staging, _hub_errors(repo):
        folder = Path(staging)
        if report is not None:
            patch = replace(patch, made_by=with_claims(patch.made_by, read_report(report)))
            shutil.copyfile(report, folder / "report.json")
        save_patch(folder / FILE, patch)
        write_text(folder / "README.md", model_card(patch, repo))
        api = HfApi()
        api.create_repo(repo, private=private, exist_ok=True)
        done = api.upload_folder(repo_id=repo, folder_path=folder, commit_message=f"Patch for {patch.base_model}")
    return str(done.commit_url)


def pull(repo: str, out: Path, revision: str | None = None) -> Patch:
    """Download the patch of ``repo`` to the new file ``out``; it appears only if it is a sound patch."""
    from huggingface_hub import hf_hub_download

    if out.exists():
        raise CcaError(f"{out}: expected a new file, found one; name another with --out")
    with _hub_errors(repo):
        path = hf_hub_download(repo, FILE, revision=revision)
    patch = load_patch(path)
    save_patch(out, patch)
    return patch


def local_folder(model: str) -> Path | None:
    """The folder that ``model`` names: itself, or that of the bundled model; None for a hub id."""
    if Path(model).is_dir():
        return Path(model)
    return BUNDLED_MODEL if model == "tinymath" else None


def model_folder(model: str, revision: str | None = None) -> Path:
    """`local_folder`, or the hub model of that name, downloaded."""
    from huggingface_hub import snapshot_download

    folder = local_folder(model)
    if folder is not None:
        return folder
    with _hub_errors(model):
        skipped = ["*.bin", "*.pth", "*.pt", "*.h5", "*.msgpack", "*.gguf", "*.onnx*", "original/*", "onnx/*"]
        return Path(snapshot_download(model, revision=revision, ignore_patterns=skipped))


def model_config(model: str, revision: str | None = None) -> dict[str, Any]:
    """``config.json`` of a model folder or of a hub model."""
    from huggingface_hub import hf_hub_download

    folder = local_folder(model)
    if folder is None:
        with _hub_errors(model):
            folder = Path(hf_hub_download(model, "config.json", revision=revision)).parent
    refuse_half_edited(folder)
    config = read_config(folder)
    if config is None:
        raise CcaError(f"{folder / 'config.json'}: no such file")
    return config


def verify_on_hub(repo: str, patch: Patch, revision: str | None = None) -> str:
    """`cca.patches.apply.verify` of a hub model, of which only headers and touched tensors are fetched.

    They are put into files with holes where the other tensors would be. Without a connection the hub library's cache
    is looked at, as by `model_folder`.
    """
    from huggingface_hub import HfApi, constants, hf_hub_download, hf_hub_url

    if constants.is_offline_mode():
        return verify(model_folder(repo, revision), patch)
    with tempfile.TemporaryDirectory() as temporary, _hub_errors(repo):
        folder = Path(temporary)
        info = HfApi().model_info(repo, revision=revision)
        names = sorted(sibling.rfilename for sibling in info.siblings or [])

        def fetch_whole(name: str) -> None:
            shutil.copyfile(hf_hub_download(repo, name, revision=info.sha), folder / name)

        if "config.json" in names:
            fetch_whole("config.json")
        chosen = choose_weights(repo, read_config(folder), names)
        shards = [chosen]
        if chosen.endswith(".json"):
            fetch_whole(chosen)
            shards = list_shards(f"{repo}/{chosen}", read_json(folder / chosen))
        urls = {shard: hf_hub_url(repo, shard, revision=info.sha) for shard in shards}
        for shard, url in urls.items():
            _fetch_header(url, folder / shard)
        for match in match_edits(patch, open_checkpoint(folder)):
            for piece in match.stored.pieces:
                _fetch(urls[piece.shard], folder / piece.shard, piece.start, piece.size)
        return verify(folder, patch)


def _fetch_header(url: str, path: Path) -> None:
    from huggingface_hub import get_hf_file_metadata

    size = get_hf_file_metadata(url).size
    if size is None or size < 8:
        raise CcaError(f"{url}: expected a safetensors file, got {size} bytes")
    with path.open("wb") as file:
        file.truncate(size)
    _fetch(url, path, 0, 8)
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
    _fetch(url, path, 8, min(header, size - 8, MOST_HEADER))


def _fetch(url: str, path: Path, start: int, size: int) -> None:
    from huggingface_hub.utils import build_hf_headers, get_session

    with path.open("r+b") as file:
        for first in range(start, start + size, CHUNK):
            last = min(first + CHUNK, start + size)
            headers = {**build_hf_headers(), "Range": f"bytes={first}-{last - 1}"}
            answer = get_session().get(url, headers=headers, follow_redirects=True)
            if answer.status_code != 206 or len(answer.content) != last - first:
                raise CcaError(f"{url}: expected bytes {first} to {last}, got status {answer.status_code}")
            file.seek(first)
            file.write(answer.content)


@contextmanager
def _hub_errors(what: str) -> Iterator[None]:
    """What the hub library raises, in one line."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    # The bases are those of the HTTP library in use, whose connection errors are no others.
    faults = cast("tuple[type[Exception], ...]", (*HfHubHTTPError.__bases__, HFValidationError, OSError))
    try:
        yield
    except faults as error:
        reason = " ".join(str(error).split())[:300]
        raise CcaError(f"{what}: cannot be had from the hub ({reason})") from error
