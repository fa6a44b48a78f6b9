"""Arguments that several commands share: TARGET is a run.yaml, a YAML file with a task, or a task's name or file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cca.errors import CcaError
from cca.files import read_yaml
from cca.runs.config import Config, config_of
from cca.tinymath import BUNDLED_MODEL

if TYPE_CHECKING:
    from cca.models.loading import Codec

NO_MODEL = "(none)"


def parse_target(target: str, overrides: Sequence[str] = (), **given: Any) -> Config:
    """The configuration of ``target``. Keys of ``given`` that are not None override what a YAML file says.

    Where nothing names a model, `Config.model` is `NO_MODEL`; there is no run folder.
    """
    content: dict[str, Any] = _content(Path(target)) if Path(target).suffix in (".yaml", ".yml") else {"task": target}
    if isinstance(content["task"], str):
        content["task"] = {"source": content["task"]}
    content = {"model": NO_MODEL, "out": ".", **content, **{k: v for k, v in given.items() if v is not None}}
    return config_of(content, overrides)


def model_path(model: str) -> str:
    """The folder of the bundled model; any other name unchanged."""
    return str(BUNDLED_MODEL) if model == "tinymath" else model


def load_target_codec(config: Config) -> Codec | None:
    """The codec of the configuration's model; None where it names none."""
    if config.model == NO_MODEL:
        return None
    from cca.models.loading import load_codec

    return load_codec(model_path(config.model), config.revision, config.trust_remote_code)


def _content(path: Path) -> dict[str, Any]:
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise CcaError(f"{path}: expected a run.yaml, or a mapping with 'source', got {type(content).__name__}")
    return content if "task" in content else {"task": content}
