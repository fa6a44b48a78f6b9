"""Provenance of a run: versions, source commit, hardware."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cca.files import fingerprint
from cca.pivots.traces import Grader
from cca.problems.task import Task
from cca.runs.progress import now

DISTRIBUTION = "circuit-amplification"
"""Name of this package in an index; it is imported and recorded as `cca`."""
PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "peft", "numpy")


def provenance(device: str | None = None) -> dict[str, Any]:
    return {"created": now(), "versions": versions(), "commit": source_commit(), "hardware": hardware(device)}


def versions() -> dict[str, str]:
    """Python and the packages that results depend on."""
    return {
        "python": platform.python_version(),
        "cca": _version(DISTRIBUTION),
        **{package: _version(package) for package in PACKAGES},
    }


def hardware(device: str | None = None) -> dict[str, Any]:
    """The machine, and which of its devices the model is on."""
    found: dict[str, Any] = {
        **({"device": device} if device else {}),
        "machine": platform.machine(),
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    if torch.cuda.is_available():
        found["gpus"] = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return found


def source_commit() -> str | None:
    """The git commit this package is run from, with ``+`` when its files differ; None for an installed package."""
    git = ["git", "-C", str(Path(__file__).resolve().parents[2])]
    try:
        commit, changed = (
            subprocess.run([*git, *arguments], capture_output=True, text=True, timeout=20)
            for arguments in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no", "."))
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if commit.returncode:
        return None
    return commit.stdout.strip() + ("+" if changed.stdout.strip() else "")


def facts_of(task: Task, grader: Grader, model: PreTrainedModel, name: str) -> dict[str, Any]:
    """Facts for the manifest: sources of the problems, the commit of a hub model, what shuts in programs judged."""
    judge = getattr(grader.judge, "judge", grader.judge)  # within its stop strings
    found = {"model_commit": model_commit(model, name), "isolation": getattr(judge, "isolation", None)}
    return {"task": task.origin, **{key: value for key, value in found.items() if value}}


def model_commit(model: PreTrainedModel, name: str) -> str | None:
    """The commit of the hub that the model called ``name`` was loaded from; None for a local folder."""
    local = Path(name).expanduser().exists()
    return None if local else getattr(model.config, "_commit_hash", None)


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Fingerprint of everything that decides how a tokenizer splits texts, as far as it exposes it."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        whole: Any = sorted(tokenizer.get_vocab().items())
    else:
        whole = {**json.loads(backend.to_str()), "truncation": None, "padding": None}  # those follow the last call
    return fingerprint([whole, tokenizer.special_tokens_map, tokenizer.chat_template])


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
