"""The configuration as text: every key with its meaning, a run.yaml to begin with, a JSON schema for editors.

All of it is made from the fields and the texts below them in `cca.runs.config`, so none of it can fall behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from cca.errors import CcaError
from cca.problems.task_config import SHAPES
from cca.runs.config import Config, make_config, section_of
from cca.section import nearest

SCHEMA = "https://json-schema.org/draft/2020-12/schema"
Line = Callable[[str, str], str]
"""(key, value as YAML) -> the line that shows it."""


def describe(key: str | None = None) -> str:
    """Every key with its meaning and default, as commented YAML; of one section or key alone where ``key`` names it.

    Raises CcaError for a key there is not.
    """
    if key is None:
        return "\n".join(_section(Config, "", _plainly))
    section: type[BaseModel] = Config
    *parents, last = key.split(".")
    for parent in parents:
        section = section_of(_field(section, parent, key)) or section
    field = _field(section, last, key)
    return "\n".join(_entry(last, field, "", _plainly))


def starter(given: Mapping[str, Any]) -> str:
    """A run.yaml that says ``given`` and shows every other key, commented out at its default.

    Raises CcaError for anything in ``given`` that a run would refuse.
    """
    resolved = make_config(given).model_dump(mode="json")  # defaults follow the preset

    def line(key: str, value: str) -> str:
        return f"{key}: {_yaml(given[key])}" if key in given else f"# {key}: {value}"

    def inner(key: str, value: str) -> str:
        return f"# {key}: {value}"

    lines = [
        "# What a run does. Keys that are commented out show their defaults; `cca config` explains them one by one.",
        "# `cca config --schema > run.schema.json` lets an editor complete and check this file.",
        "",
    ]
    for name, field in Config.model_fields.items():
        model = section_of(field)
        if model is None:
            lines += [*_entry(name, field, "", line, resolved), ""]
        else:
            lines += [f"{name}:", *_section(model, "  ", inner, resolved[name]), ""]
    return "\n".join(lines).rstrip() + "\n"


def schema() -> dict[str, Any]:
    """The JSON schema of run.yaml. A section may be a heading without keys, as `cca init` leaves them."""
    whole = {"$schema": SCHEMA, **Config.model_json_schema(), "title": "run.yaml of cca"}
    for definition in (whole, *whole["$defs"].values()):
        for described in definition["properties"].values():
            if "$ref" in described:
                described["anyOf"] = [{"$ref": described.pop("$ref")}, {"type": "null"}]
    return whole


def _section(section: type[BaseModel], indent: str, line: Line, values: Mapping[str, Any] | None = None) -> list[str]:
    return [text for name, field in section.model_fields.items() for text in _entry(name, field, indent, line, values)]


def _entry(
    name: str, field: FieldInfo, indent: str, line: Line, values: Mapping[str, Any] | None = None
) -> Iterator[str]:
    """The lines of one key, and of those below it; with ``values`` they are shown in place of the defaults."""
    if field.description:
        yield f"{indent}# {field.description}{_choices(field)}"
    model = section_of(field)
    if model is not None:
        yield f"{indent}{name}:"
        yield from _section(model, indent + "  ", line, None if values is None else values[name])
    elif values is not None:
        yield indent + line(name, _yaml(values[name]))
    else:
        required = field.is_required()
        yield indent + line(name, "(required)" if required else _yaml(field.get_default(call_default_factory=True)))
        if name == "task":
            for what, shape in SHAPES.items():
                yield f"{indent}# or, from {'three files' if what == 'files' else 'one source'}:"
                yield from (f"{indent}# {text}" for text in ("task:", *_section(shape, "  ", _plainly)))


def _plainly(key: str, value: str) -> str:
    return f"{key}: {value}"


def _choices(field: FieldInfo) -> str:
    """The values to choose from, where the text does not name them all."""
    if get_origin(field.annotation) is not Literal:
        return ""
    choices = [str(choice) for choice in get_args(field.annotation)]
    named = all(choice in (field.description or "") for choice in choices)
    return "" if named else f" One of {', '.join(choices)}."


def _field(section: type[BaseModel], name: str, key: str) -> FieldInfo:
    field = section.model_fields.get(name)
    if field is None:
        raise CcaError(f"unknown config key {key!r}; {nearest(name, list(section.model_fields))}")
    return field


def _yaml(value: Any) -> str:
    """A value on one line, whatever its length."""
    plain = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(plain, default_flow_style=True, sort_keys=False, width=1 << 30).splitlines()[0]
