"""The configuration of a run: every key, its meaning and its default. The texts below the fields are the help.

Unknown keys are refused by name. A preset sets defaults; what run.yaml or ``--set`` says goes over it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, Field, PrivateAttr, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo

from cca.amplify.settings import AmplifyConfig
from cca.circuits.settings import CircuitConfig
from cca.engines.settings import EngineName, RayConfig, VLLMConfig
from cca.errors import CcaError
from cca.evaluation.settings import EvaluateConfig
from cca.files import read_yaml
from cca.models.anatomy.declarations import declaration_for
from cca.pivots.settings import PivotsConfig, TracesConfig
from cca.problems.task_config import SHAPES, TaskSpec
from cca.problems.task_config import TaskFiles as TaskFiles
from cca.section import Section, check_plain, first_fault, merged

PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    # Published settings (arXiv 2512.16914): see docs/concepts.md for where each stands.
    "paper": {
        "traces": {"samples": 10, "temperature_when_right": 1.2, "temperature_when_wrong": 0.8, "templates_below": 0.8},
        "pivots": {"method": "branching"},
        "circuit": {
            "localiser": "dcm", "gate": "double", "learning_rate": 5e-3, "decay_every": 5, "decay": 0.9, "epochs": 50,
            "batch_size": 8, "penalty": 0.01, "initial": 1.0, "threshold": 0.5,
        },
        "amplify": {
            "objective": "logit-gap", "optimiser": "gradient-descent", "whitening": "none", "rows": "paper",
            "predicted_change": None,
            "coefficient": 1e-4, "steps": 100, "patience": 100,
            "validate_at": [2, 4, 6, 8, 10, *range(15, 101, 5)],
            "budget": {"points": 100.0, "drift": 1e9},
        },
    },
}  # fmt: skip
"""Sets of defaults, which run.yaml and ``--set`` go over."""


class Config(Section):
    model: str
    """Hub id or local folder of the base model; 'tinymath' is the bundled one."""
    task: TaskSpec
    """A name (`cca task list`), files {train, validation, test}, or {source, ...}: docs/how-to/your-task.md."""
    out: Path
    """Folder of the run; the same folder resumes it."""
    retention: tuple[str, ...] = ()
    """Problem files of other skills: half guards the budget, half is reported. lm_eval:TASK is reported alone."""
    preset: Literal["default", "paper"] = "default"
    """Where unset keys take their defaults from; 'paper' is the published settings."""
    seed: int = Field(default=0, ge=0, lt=1 << 63)
    """Decides everything random."""
    judge: str | dict[str, Any] = "auto"
    """How answers are read and compared: a name, or {name, and options of that judge}; auto: what suits the task."""
    allow_code: bool = False
    """Run code that the configuration names: a task or judge of yours (package.module:function), the judge 'code'."""

    @field_validator("judge")
    @classmethod
    def _named(cls, judge: str | dict[str, Any]) -> str | dict[str, Any]:
        if isinstance(judge, dict) and not isinstance(judge.get("name"), str):
            raise ValueError("expected {name: ..., and its options}")
        return judge

    revision: str | None = None
    """Revision of a hub model."""
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    """Data type to load the model in."""
    device_map: str | None = None
    """How to spread the model over devices, as transformers takes it ('auto'); instead of device."""
    device: str | None = None
    """Where to put the model: cuda, cuda:1, mps, cpu; by default CUDA, then MPS, then the CPU. May change in a run."""

    @field_validator("device")
    @classmethod
    def _alone(cls, device: str | None, others: ValidationInfo) -> str | None:
        if device and others.data.get("device_map"):
            raise ValueError(f"expected none with device_map {others.data['device_map']!r}; leave one of them out")
        return device

    sharding: Literal["none", "fsdp"] = "none"
    """fsdp: spread the weights over the processes of accelerate launch, for a model larger than one GPU."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Only for models you trust."""
    attn_implementation: str | None = None
    """How attention is computed, as transformers names it; by default eager where scores are capped, else sdpa."""
    anatomy: str | dict[str, Any] | None = None
    """Where heads and neurons are, for an architecture that cca does not know: fields, or a YAML file with them."""

    @field_validator("anatomy")
    @classmethod
    def _declarable(cls, anatomy: str | dict[str, Any] | None) -> str | dict[str, Any] | None:
        if isinstance(anatomy, dict):
            declaration_for("", anatomy)
        return anatomy

    engine: EngineName = "auto"
    """What generates text: hf (transformers), vllm, or ray; auto takes vLLM where it is installed and has a GPU."""
    trackers: tuple[str, ...] = ()
    """Where else the numbers go, through accelerate: tensorboard, wandb, ... May change while a run goes on."""
    traces: TracesConfig = TracesConfig()
    pivots: PivotsConfig = PivotsConfig()
    circuit: CircuitConfig = CircuitConfig()
    amplify: AmplifyConfig = AmplifyConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    vllm: VLLMConfig = VLLMConfig()
    ray: RayConfig = RayConfig()
    _notes: tuple[str, ...] = PrivateAttr(default=())

    @property
    def notes(self) -> tuple[str, ...]:
        """What to say of the keys as they were given: old names."""
        return self._notes


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read run.yaml and apply ``key.sub=value`` overrides. Paths in it are relative to the working directory.

    Raises CcaError naming the key for anything unknown, missing or out of range.
    """
    if not path.exists():
        raise CcaError(f"{path}: no such file; `cca init` writes one")
    given = read_yaml(path)
    if not isinstance(given, dict):
        raise CcaError(f"{path}: expected keys and values such as 'model: ...', got {type(given).__name__}")
    return config_of(given, overrides)


def config_of(given: Mapping[str, Any], overrides: Sequence[str]) -> Config:
    """A Config from a mapping and overrides."""
    changed = dict(given)
    for override in overrides:
        _override(changed, override)
    return make_config(changed)


def make_config(given: Mapping[str, Any]) -> Config:
    """Build a Config from a mapping, over its preset. Raises CcaError for the first fault, naming the key."""
    check_plain(given)
    preset = given.get("preset", "default")
    if not isinstance(preset, str) or preset not in PRESETS:
        raise CcaError(f"preset: expected one of {', '.join(PRESETS)}, got {preset!r}")
    try:
        config = Config.model_validate(merged(PRESETS[preset], given))
    except ValidationError as error:
        fault = first_fault(error, "config key", known_keys)
        raise CcaError(f"{fault}; `cca config` says what it means" if fault.endswith("missing") else fault) from error
    amplify = given.get("amplify")
    if isinstance(amplify, Mapping) and "precondition" in amplify:
        config._notes = ("amplify.precondition is now called amplify.whitening",)
    return config


def _override(given: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise CcaError(f"--set: expected key=value, got {override!r}")
    *parents, leaf = key.strip().split(".")
    place = given
    for parent in parents:
        nested = place[parent] = {} if place.get(parent) is None else place[parent]
        if not isinstance(nested, dict):
            raise CcaError(f"--set {key}: {parent!r} holds a single value, not keys")
        place = nested
    try:
        place[leaf] = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise CcaError(f"--set {key}: expected a YAML value, got {text!r}") from error


def known_keys(path: Sequence[str]) -> list[str]:
    """The keys of the section at ``path``."""
    section: type[BaseModel] = Config
    for part in path:
        if part == "task":
            continue  # its shape comes next
        section = SHAPES[part] if part in SHAPES else section_of(section.model_fields[part]) or section
    return list(section.model_fields)


def section_of(field: FieldInfo) -> type[BaseModel] | None:
    """The section that a field holds; None for a single value."""
    annotation = field.annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
