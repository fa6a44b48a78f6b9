"""The name to install by: `cca` on the package index is another project, so no text may send anybody there."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

from cca.runs.folder.provenance import DISTRIBUTION, versions

ROOT = Path(__file__).parents[1]
PLACES = ("src", "docs", "examples", "README.md", "CHANGELOG.md", "Makefile", "pyproject.toml")
SUFFIXES = {".md", ".py", ".toml", ".yaml", ".yml", ".sh", ".html", ".js", ""}
FOREIGN = re.compile(r"""\bcca\[[a-z]|\bpip3? install [^\n`&|;]*?(?<![\w./-])['"]?cca(?![\w./-])""")


def lines_with_foreign_name(root: Path) -> list[str]:
    found = []
    for place in PLACES:
        files = sorted((root / place).rglob("*")) if (root / place).is_dir() else [root / place]
        for file in files:
            if file.is_file() and file.suffix in SUFFIXES and ".egg-info" not in str(file):
                lines = file.read_text(encoding="utf-8").splitlines()
                found += [f"{file.relative_to(root)}:{n}" for n, line in enumerate(lines, 1) if FOREIGN.search(line)]
    return found


def test_no_text_installs_the_foreign_package() -> None:
    assert lines_with_foreign_name(ROOT) == []


@pytest.mark.parametrize(
    ("line", "is_foreign"),
    [
        ("pip install 'cca[vllm]'", True),
        ('    "cca[data,math]",', True),
        ("pip install cca", True),
        ("pip install --upgrade cca, then", True),
        ('pip install -e ".[vllm]"', False),
        ("pip install -e cca/ && cca demo", False),
        ("the command cca", False),
    ],
)
def test_the_foreign_name_is_recognised(line: str, is_foreign: bool) -> None:
    assert bool(FOREIGN.search(line)) == is_foreign


def test_the_distribution_is_the_one_that_pyproject_names() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["name"] == DISTRIBUTION
    assert list(project["scripts"]) == ["cca"]
    assert versions()["cca"] == version(DISTRIBUTION)
