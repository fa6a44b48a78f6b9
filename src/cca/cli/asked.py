"""What a command was asked to look at: a run.yaml, a YAML file with a task in it, or a task's name or file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cca.errors import CcaError
from cca.files import read_yaml
from cca.models.loading import Codec, load_codec
from cca.runs.config.config import Config, config_of
from cca.tinymath import BUNDLED_MODEL

NO_MODEL = "(none)"


def asked(what: str, overrides: Sequence[str] = (), **given: Any) -> Config:
    """A configuration for the task ``what``. ``given`` keys that are not None go over what a YAML file says.

    Where nothing names a model, `Config.model` is `NO_MODEL`; there is no run folder.
    """
    content: dict[str, Any] = (
        _content(Path(what)) if Path(what).suffix in (".yaml", ".yml") else {"task": what}
    )
    if isinstance(content["task"], str):
        content["task"] = {"source": content["task"]}
    content = {"model": NO_MODEL, "out": ".", **content, **{k: v for k, v in given.items() if v is not None}}
    return config_of(content, overrides)


def model_place(model: str) -> str:
    """The folder of a bundled model, any other name as it is."""
    return str(BUNDLED_MODEL) if model == "tinymath" else model


def codec_of(config: Config) -> Codec | None:
    """The codec of the configuration's model; None where it names none."""
    if config.model == NO_MODEL:
        return None
    return load_codec(model_place(config.model), config.revision, config.trust_remote_code)


def _content(path: Path) -> dict[str, Any]:
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise CcaError(
            f"{path}: expected a run.yaml, or a mapping with 'source', got {type(content).__name__}"
        )
    return content if "task" in content else {"task": content}
