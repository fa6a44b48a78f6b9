"""Imports go down the floors of the house, never up and never round."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "cca"
FLOORS = (
    ("errors", "files", "section", "distributed"),
    ("problems",),
    ("tinymath",),
    ("models",),
    ("engines",),
    ("pivots",),
    ("gradients",),
    ("circuits",),
    ("amplify",),
    ("patches",),
    ("evaluation",),
    ("baselines",),
    ("reports",),
    ("runs",),
    ("compare",),
    ("cli",),
)
"""From the ground up; a room imports from its own floor and from those below."""
HEIGHT = {room: height for height, rooms in enumerate(FLOORS) for room in rooms}


def imports(source: Path) -> Iterator[tuple[str, str]]:
    """(importing module, imported module) for every import of one module of ``source`` by another."""
    files = {module_name(source, path): path for path in sorted(source.rglob("*.py"))}
    for name, path in files.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found = [f"{node.module}.{alias.name}" for alias in node.names]
                found = [each if each in files else node.module for each in found]
            else:
                continue
            yield from ((name, other) for other in found if other in files and other != name)


def module_name(source: Path, path: Path) -> str:
    parts = path.relative_to(source.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def faults(source: Path) -> list[str]:
    """Imports that go up a floor, and circles of modules."""
    edges = sorted(set(imports(source)))
    rooms = [(name, other, name.split(".")[1:2], other.split(".")[1:2]) for name, other in edges]
    up = [
        f"{name} imports {other}, which is on a higher floor"
        for name, other, (*room,), (*below,) in rooms
        if room and below and HEIGHT.get(room[0], len(FLOORS)) < HEIGHT.get(below[0], len(FLOORS))
    ]
    return up + [f"these import each other: {' '.join(circle)}" for circle in circles(edges)]


def circles(edges: list[tuple[str, str]]) -> list[list[str]]:
    """Groups of modules that reach each other by imports."""
    below: dict[str, set[str]] = {}
    for name, other in edges:
        below.setdefault(name, set()).add(other)
    reached = {name: reach(name, below) for name in below}
    groups = {tuple(sorted(other for other in reached[name] if name in reached.get(other, ()))) for name in below}
    return sorted(list(group) for group in groups if group)


def reach(start: str, below: dict[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    waiting = list(below.get(start, ()))
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += below.get(name, ())
    return seen


def test_imports_go_down_the_floors_and_never_round() -> None:
    assert faults(SOURCE) == []


def test_a_planted_import_is_noticed(tmp_path: Path) -> None:
    for name, text in {
        "models/low.py": "from cca.runs.high import thing",
        "runs/high.py": "from cca.models import low",
        "runs/__init__.py": "",
        "models/__init__.py": "",
        "__init__.py": "",
    }.items():
        path = tmp_path / "cca" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    found = faults(tmp_path / "cca")
    assert any("higher floor" in fault for fault in found)
    assert any("import each other: cca.models.low cca.runs.high" in fault for fault in found)
