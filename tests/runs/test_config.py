"""run.yaml: overrides, presets, what is refused and how, and the texts made from the fields."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic import BaseModel

from cca.errors import CcaError
from cca.runs.config import Config, config_of, load_config, make_config
from cca.runs.help_text import describe, schema, starter

LEAST = {"model": "tinymath", "task": "tinymath", "out": "runs/x"}


def leaves(section: type[BaseModel], before: str = "") -> list[str]:
    """The dotted names of all keys."""
    found = []
    for name, field in section.model_fields.items():
        inner = field.annotation
        nested = isinstance(inner, type) and issubclass(inner, BaseModel)
        found += leaves(inner, f"{before}{name}.") if nested else [before + name]
    return found


BOMB = "{a0: &a0 [x, x, x, x, x, x, x, x, x, x], " + ", ".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)
) + "}"  # fmt: skip
"""Ten billion values on a line of YAML."""


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("traces.samples=3", ("traces", "samples"), 3),
        ("seed=7", ("seed",), 7),
        ("amplify.coefficient=1e-4", ("amplify", "coefficient"), 1e-4),
        ("amplify.validate_at=[1, 2]", ("amplify", "validate_at"), (1, 2)),
        ("circuit.size=1% of components", ("circuit", "size"), "1% of components"),
        ("traces.max_new_tokens=null", ("traces", "max_new_tokens"), None),
        ("amplify.budget.drift=1", ("amplify", "budget", "drift"), 1.0),
        ("judge={name: regex, ignore_case: true}", ("judge",), {"name": "regex", "ignore_case": True}),
        ("model=a=b", ("model",), "a=b"),
    ],
)
def test_set(override: str, path: tuple[str, ...], value: Any) -> None:
    found: Any = config_of(LEAST, [override])
    for part in path:
        found = getattr(found, part)
    assert found == value


def test_set_goes_over_the_file_and_the_last_one_wins() -> None:
    config = config_of({**LEAST, "traces": {"samples": 2, "chunk": 3}}, ["traces.samples=5", "traces.samples=6"])
    assert (config.traces.samples, config.traces.chunk) == (6, 3)
    assert config_of({**LEAST, "traces": None}, ["traces.samples=5"]).traces.samples == 5


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("traces.sample=3", ["'traces.sample'", "did you mean 'samples'"]),
        ("amplify.budget.drfit=3", ["'amplify.budget.drfit'", "did you mean 'drift'"]),
        ("trace.samples=3", ["'trace'", "did you mean 'traces'"]),
        ("zzz=3", ["'zzz'", "known keys: model, task"]),
        ("evaluate.lm_eval.qqq=3", ["'evaluate.lm_eval.qqq'", "known keys: ", "num_fewshot"]),
        ("traces.samples=0", ["'traces.samples'", "greater than or equal to 1", "got 0"]),
        ("traces.samples=many", ["'traces.samples'", "integer", "got 'many'"]),
        ("dtype=float8", ["'dtype'", "'bfloat16'"]),
        ("preset=papre", ["preset", "default, paper"]),
        ("preset=[1]", ["preset", "default, paper"]),
        ("traces=5", ["'traces'", "got 5"]),
        ("model.name=5", ["--set model.name", "holds a single value"]),
        ("traces.samples", ["--set", "key=value"]),
        ("=5", ["--set", "key=value"]),
        ("traces.samples=[", ["--set traces.samples", "YAML"]),
        ("seed=2024-99-99", ["--set seed", "YAML"]),
        ("judge={regex: 1}", ["'judge'", "name"]),
        ("seed=9223372036854775808", ["'seed'", "less than 9223372036854775808"]),
        ("amplify.predicted_change=.inf", ["'amplify.predicted_change'", "finite number"]),
        ("judge={name: regex, options: [1, .nan]}", ["'judge.options.1'", "finite number"]),
        ('out="runs/a\\0b"', ["'out'", "without NUL"]),
        ('retention=["\\ud800"]', ["'retention.0'", "UTF-8"]),
        ("anatomy=&a {layers: *a}", ["'anatomy.layers'", "contains itself"]),
        (f"vllm.options={BOMB}", ["at most 100,000 values", "aliases"]),
    ],
)
def test_what_is_refused_names_the_key(override: str, parts: list[str]) -> None:
    with pytest.raises(CcaError) as refusal:
        config_of(LEAST, [override])
    assert "\n" not in str(refusal.value)
    for part in parts:
        assert part in str(refusal.value)


@pytest.mark.parametrize("missing", list(LEAST))
def test_required_keys(missing: str) -> None:
    with pytest.raises(CcaError, match=f"'{missing}' is missing"):
        make_config({key: value for key, value in LEAST.items() if key != missing})


def test_a_preset_sets_defaults_that_the_file_goes_over() -> None:
    paper = make_config({**LEAST, "preset": "paper", "circuit": {"epochs": 3}})
    assert (paper.circuit.localiser, paper.circuit.epochs) == ("dcm", 3)
    assert paper.amplify.coefficient == 1e-4


def test_every_key_is_explained() -> None:
    text = describe()
    for key in leaves(Config):
        own = describe(key)
        assert own.startswith("# "), f"{key} has no text"
        assert own.splitlines()[0] in text
    assert describe("amplify.budget").startswith("# Limits on the cost of an accepted step")
    with pytest.raises(CcaError, match=r"'traces\.sample'; did you mean 'samples'"):
        describe("traces.sample")


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_init_writes_what_it_was_told_and_shows_the_rest(tmp_path: Path, preset: str) -> None:
    given = {**LEAST, "preset": preset, "retention": ["other.jsonl"]}
    path = tmp_path / "run.yaml"
    path.write_text(starter(given))
    assert load_config(path) == make_config(given)
    # A line "# key: value" is a default: taking the sign away changes nothing. A text has no key, or sentences.
    uncommented = [
        line.replace("# ", "", 1) if line.strip().startswith("# ") and is_key(line) else line
        for line in starter(given).splitlines()
    ]
    path.write_text("\n".join(uncommented))
    assert set(leaves_of(yaml.safe_load(path.read_text()))) == set(leaves_of(make_config(given).model_dump()))
    assert load_config(path).model_dump() == make_config(given).model_dump()


def is_key(line: str) -> bool:
    key, _, value = line.strip().removeprefix("# ").partition(": ")
    return (
        not value.endswith(".") and key.isidentifier() and key in {leaf.rpartition(".")[2] for leaf in leaves(Config)}
    )


def leaves_of(value: Any, before: str = "") -> list[str]:
    if not isinstance(value, dict) or before == "judge.":
        return [before]
    return [leaf for key, inner in value.items() for leaf in leaves_of(inner, f"{before}{key}.")]


def test_init_refuses_what_a_run_would() -> None:
    with pytest.raises(CcaError, match="preset"):
        starter({**LEAST, "preset": "best"})


def test_the_schema_is_one_and_says_what_the_loader_says() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    validator = jsonschema.Draft202012Validator(schema())
    assert validator.is_valid(make_config(LEAST).model_dump(mode="json"))
    assert validator.is_valid({**LEAST, "task": {"train": "a", "validation": "b", "test": "c"}})
    assert validator.is_valid(yaml.safe_load(starter(LEAST)))
    for wrong in ({"traces": {"sample": 3}}, {"seed": -1}, {"dtype": "float8"}, {"task": {"train": "a"}}):
        assert not validator.is_valid({**LEAST, **wrong})
    assert schema()["properties"]["seed"]["description"] == "Decides everything random."
