"""compare.yaml: models, seeds and arms. The texts below the fields are the help; unknown keys are refused by name.

An arm's ``set`` holds the keys of a run (``circuit.localiser: dcm``); a list of values is an axis, and an arm stands
for every combination of its axes. Keys that shape the traces belong under ``base``, for all arms share them.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from cca.baselines import BASELINES, baseline_settings
from cca.errors import CcaError
from cca.files import read_yaml
from cca.runs.config import Config, make_config
from cca.section import Section, first_fault, merged

SECTIONS = ("circuit", "amplify", "pivots")
"""Sections of a run that an arm may set."""
HF = {"engine": "hf"}
"""Where nothing else is said: some arms are adapters, which no engine beside this process sees."""
LIST_KEYS = ("circuit.kinds", "amplify.validate_at")
"""Keys whose value is itself a list: only a list of lists is an axis."""


class ModelEntry(Section):
    name: str = ""
    """What tables call it; by default the model's own name."""
    model: str
    """Hub id or local folder; 'tinymath' is the bundled one."""
    task: Any = "tinymath"
    """As in a run.yaml."""
    retention: tuple[str, ...] = ()
    """As in a run.yaml."""

    @property
    def label(self) -> str:
        return self.name or Path(self.model).name


class ControlsEntry(Section):
    random: int = Field(default=0, ge=0)
    """Random circuits of the arm's size and mix of kinds."""
    random_layers: int = Field(default=0, ge=0)
    """Random circuits of the arm's size and mix of kinds in every layer."""


class ArmEntry(Section):
    name: str
    """What tables call it; axes are added to it."""
    preset: Literal["default", "paper"] | None = None
    """Take circuit and amplify from this preset instead of from base."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Keys of a run and their values; a list of values is an axis."""
    pivots: int | tuple[int, ...] | None = None
    """Use this many pivots, drawn by the seed, smaller draws inside larger ones; by default all."""
    balance: bool | tuple[bool, ...] = False
    """Use as many pivots of problems that the greedy trace had right as of those it had wrong."""
    rounds: int | tuple[int, ...] = 1
    """Locate and train this often, each time from the best step inside the budget of the round before."""
    retrace: bool | tuple[bool, ...] = True
    """In later rounds: trace the edited model for new pivots; false: keep the pivots, locate anew."""
    baseline: str | None = None
    """Train something other than a circuit's rows; `BASELINES` names what."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Settings of the baseline; a list of values is an axis."""
    controls: ControlsEntry = ControlsEntry()
    """Controls that copy this arm's circuit; with several cells, each gets its own."""

    @model_validator(mode="after")
    def _known(self) -> ArmEntry:
        for key in self.set:
            if key.partition(".")[0] not in SECTIONS:
                raise ValueError(f"arm {self.name!r} may set {', '.join(SECTIONS)} keys, not {key!r}")
        if self.baseline is not None and self.baseline not in BASELINES:
            raise ValueError(f"baseline of arm {self.name!r} must be one of {', '.join(BASELINES)}")
        if self.baseline is None and self.options:
            raise ValueError(f"arm {self.name!r} has options, which only a baseline takes")
        rounds = _tuple(self.rounds)
        if min(rounds, default=0) < 1:
            raise ValueError(f"rounds of arm {self.name!r} must be at least 1")
        if self.baseline is not None and max(rounds) > 1:
            raise ValueError(f"arm {self.name!r} has rounds, which only a circuit takes")
        if self.baseline is not None and (self.controls.random or self.controls.random_layers):
            raise ValueError(f"arm {self.name!r} has controls, which only a circuit takes")
        return self


class MatchedEntry(Section):
    points: tuple[float, ...] = (10.0,)
    """Validation gains, in points, at whose first reaching step arms are compared."""
    reference: str | None = None
    """Also compare where arms reach the best validated accuracy of this arm; by default the first arm."""


class LimitsEntry(Section):
    validation: int | None = Field(default=None, ge=1)
    """Judge steps on at most this many validation problems, spread over the set."""
    retention: int = Field(default=100, ge=1)
    """Measure drift on at most this many problems of each other skill."""
    test: int | None = Field(default=None, ge=1)
    """Test on at most this many problems, spread over the set."""


class CompareConfig(Section):
    out: Path
    """Folder of the comparison; the same folder resumes it."""
    models: tuple[ModelEntry, ...] = Field(min_length=1)
    """Models and their tasks."""
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    """Each seed draws problems, traces and controls anew."""
    arms: tuple[ArmEntry, ...] = Field(min_length=1)
    """What is compared."""
    base: dict[str, Any] = Field(default_factory=dict)
    """Keys of a run, nested or dotted, for all arms."""
    matched: MatchedEntry = MatchedEntry()
    """Gains at which arms are compared."""
    limits: LimitsEntry = LimitsEntry()
    """How much data judges a step."""
    test: bool = False
    """Measure every arm's best step on the test split too. Once, when nothing is left to choose."""

    @property
    def reference(self) -> str:
        return self.matched.reference or self.arms[0].name


class Arm(Section):
    """One cell of an entry's grid, before models and seeds."""

    entry: str
    label: str
    preset: str | None
    settings: dict[str, Any]
    """Dotted run keys."""
    pivots: int | None
    balance: bool
    rounds: int
    retrace: bool
    baseline: str | None
    options: dict[str, Any]

    def run_config(self, config: CompareConfig, model: ModelEntry, seed: int, out: Path) -> Config:
        """The run that this arm is, on one model and seed. Raises CcaError naming a key that cannot be."""
        given = {**HF, **_nested(config.base)}
        if self.preset is not None:
            preset = make_config({"preset": self.preset, "model": "-", "task": "tinymath", "out": "-"})
            given |= preset.model_dump(mode="json", include={"circuit", "amplify"})
        made = make_config({**merged(given, _nested(self.settings)), **_fixed(model, seed, out)})
        return made.model_copy(update={"traces": base_config(config, model, seed, out).traces})


def base_config(config: CompareConfig, model: ModelEntry, seed: int, out: Path) -> Config:
    """The run whose traces all arms of one model and seed share."""
    return make_config({**HF, **_nested(config.base), **_fixed(model, seed, out)})


def arms_of(config: CompareConfig) -> list[Arm]:
    """Every cell of every entry, labelled by the axes that vary."""
    arms = []
    for entry in config.arms:
        axes: dict[str, list[Any]] = {key: _values(key, value) for key, value in entry.set.items()}
        options = {f"option {key}": _values(key, value) for key, value in entry.options.items()}
        own = {
            "pivots": _tuple(entry.pivots), "balance": _tuple(entry.balance),
            "rounds": _tuple(entry.rounds), "retrace": _tuple(entry.retrace),
        }  # fmt: skip
        every = {**axes, **options, **own}
        varying = [key for key, values in every.items() if len(values) > 1]
        for cell in itertools.product(*every.values()):
            at = dict(zip(every, cell, strict=True))
            names = [f"{key.rpartition('.')[2].removeprefix('option ')}={at[key]}" for key in varying]
            if entry.baseline is not None:
                baseline_settings({key: at[f"option {key}"] for key in entry.options})
            arms.append(
                Arm(
                    entry=entry.name, label=" ".join([entry.name, *names]), preset=entry.preset,
                    settings={key: at[key] for key in axes}, pivots=at["pivots"], balance=at["balance"],
                    rounds=at["rounds"], retrace=at["retrace"], baseline=entry.baseline,
                    options={key: at[f"option {key}"] for key in entry.options},
                )
            )  # fmt: skip
    labels = [arm.label for arm in arms]
    for label in labels:
        if labels.count(label) > 1:
            raise CcaError(f"arms: expected names that differ, got {label!r} twice; rename one")
    return arms


def load_compare(path: Path) -> CompareConfig:
    """Read compare.yaml, and check every arm against every model's run. Raises CcaError naming the first fault."""
    given = read_yaml(path)
    if not isinstance(given, dict):
        raise CcaError(f"{path}: expected keys and values such as 'models: ...', got {type(given).__name__}")
    return compare_config(given)


def compare_config(given: Mapping[str, Any]) -> CompareConfig:
    try:
        config = CompareConfig.model_validate(given)
    except ValidationError as error:
        sections = (CompareConfig, ModelEntry, ArmEntry, ControlsEntry, MatchedEntry, LimitsEntry)
        known = [name for section in sections for name in section.model_fields]
        raise CcaError(first_fault(error, "compare key", lambda _: known)) from error
    if len({entry.name for entry in config.arms}) < len(config.arms):
        raise CcaError("arms: expected names that differ; rename one")
    if config.reference not in {entry.name for entry in config.arms}:
        raise CcaError(f"matched.reference: expected the name of an arm, got {config.reference!r}")
    if len({model.label for model in config.models}) < len(config.models):
        raise CcaError("models: expected names that differ; set 'name' of one")
    for model in config.models:
        for arm in arms_of(config):
            arm.run_config(config, model, config.seeds[0], Path("-"))
    return config


def _fixed(model: ModelEntry, seed: int, out: Path) -> dict[str, Any]:
    retention = {"retention": list(model.retention)} if model.retention else {}
    return {"model": model.model, "task": model.task, "seed": seed, "out": str(out), **retention}


def _nested(dotted: Mapping[str, Any]) -> dict[str, Any]:
    """Sections by name, from keys that may be dotted."""
    nested: dict[str, Any] = {}
    for key, value in dotted.items():
        section = _nested(value) if isinstance(value, Mapping) else value
        for part in reversed(key.split(".")):
            section = {part: section}
        nested = merged(nested, section)
    return nested


def _values(key: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        return [value]
    if key in LIST_KEYS and not (value and isinstance(value[0], list)):
        return [value]
    if not value:
        raise CcaError(f"arm key {key!r}: expected a value or a list of values, got an empty list")
    return value


def _tuple(value: Any) -> Sequence[Any]:
    return value if isinstance(value, tuple) else (value,)
