"""Write the table of keys in docs/report.md from the field texts of the report: python docs/write_reference.py"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from cca.reports.parts import Unit
from cca.reports.report import Report

PAGE = Path(__file__).with_name("report.md")
BEGIN, END = "<!-- keys: written by docs/write_reference.py -->\n", "<!-- end of keys -->\n"


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


def written(page: str) -> str:
    """The page with its table of keys as the field texts say."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table(Report)}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
