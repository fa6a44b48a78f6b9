"""Write the generated parts of docs/reference from the code: python docs/write_reference.py"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from inspect import getdoc
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

import cca
from cca.reports.parts import Unit
from cca.reports.report import Report
from cca.runs.help_text import describe

REFERENCE = Path(__file__).parent / "reference"
BEGIN, END = "<!-- written by docs/write_reference.py -->\n", "<!-- end of what is written -->\n"


def rows(
    model: type[BaseModel], path: str = "", told: dict[type[BaseModel], str] | None = None
) -> Iterator[tuple[str, str, str]]:
    """(key, meaning, unit) of every field. The keys of a part are told where it comes first."""
    told = {} if told is None else told
    for name, field in model.model_fields.items():
        inner, suffix = part_of(field.annotation)
        key, meaning = f"{path}{name}{suffix}", field.description or ""
        if inner in told:
            meaning += f" Keys as in `{told[inner]}`."
        yield key, meaning, unit_of(field)
        if inner is not None and inner not in told:
            told[inner] = key
            yield from rows(inner, f"{key}.", told)


def part_of(annotation: Any) -> tuple[type[BaseModel] | None, str]:
    """The part that a field holds, and how its key is written: `x`, `x[]` or `x.<name>`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, ""
    suffix = {tuple: "[]", dict: ".<name>"}.get(get_origin(annotation) or type(None), "")
    for inner in get_args(annotation):
        found, deeper = part_of(inner)
        if found is not None:
            return found, suffix + deeper
    return None, ""


def unit_of(field: FieldInfo) -> str:
    return next(units([*field.metadata, field.annotation]), "")


def units(found: Iterable[Any]) -> Iterator[str]:
    for each in found:
        if isinstance(each, Unit):
            yield each.name
        elif not isinstance(each, type):
            yield from units([*getattr(each, "__metadata__", ()), *get_args(each)])


def table(model: type[BaseModel]) -> str:
    lines = ["| key | meaning | unit |", "|---|---|---|"]
    for key, meaning, unit in rows(model):
        lines.append(f"| `{key}` | {' '.join(meaning.split())} | {unit} |")
    return "\n".join(lines) + "\n"


def config_page() -> str:
    return f"```yaml\n{describe()}\n```\n"


def own_text(value: Any) -> bool:
    """False for texts that pydantic and dataclasses put in themselves."""
    text = vars(value).get("__doc__") or ""
    return not text.startswith(("!!!", f"{value.__name__}("))


def python_page() -> str:
    lines = ["| name | from | |", "|---|---|---|"]
    for name in cca.__all__:
        value = getattr(cca, name)
        text = (getdoc(value) or "").split("\n\n")[0] if value.__doc__ and own_text(value) else ""
        lines.append(f"| `cca.{name}` | `{cca.HOMES[name]}` | {' '.join(text.split())} |")
    return "\n".join(lines) + "\n"


PAGES = {"report": lambda: table(Report), "config": config_page, "python": python_page}
"""The generated part of each page of docs/reference."""


def path_of(page: str) -> Path:
    return REFERENCE / f"{page}.md"


def written(page: str) -> str:
    """The page with its generated part as the code says."""
    before, _, rest = path_of(page).read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{PAGES[page]()}\n{END}{after}"


if __name__ == "__main__":
    for name in PAGES:
        path_of(name).write_text(written(name), encoding="utf-8")
