"""Damaged files of every kind: each is refused in one line or read as what it says, soon, and never as another.

A few of each in the unit tier; ``make fuzz`` tries more than ten thousand (CCA_FUZZ: damaged files a reader).
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

import tiny_run
from cca.circuits.circuit import load_circuit
from cca.compare.config import load_compare
from cca.errors import CcaError
from cca.files import read_sealed
from cca.models.anatomy.declarations import read_declaration
from cca.patches.patch_file import digest, load_patch
from cca.pivots.pivot import load_pivots
from cca.pivots.traces import FORMAT as TRACES
from cca.pivots.traces import VERSION as TRACES_VERSION
from cca.problems.problem import read_problems
from cca.problems.templates.template import Template
from cca.reports.page import render_page
from cca.runs.config import load_config
from cca.runs.costs import read_costs
from cca.runs.folder.row_log import Measurements, RowLog
from cca.runs.folder.run_folder import RunFolder
from cca.runs.pipeline import run
from cca.runs.progress import NoProgress
from cca.runs.stages.traces_and_pivots import read_traces
from cca.runs.status import status

_spec = importlib.util.spec_from_file_location("mutations", Path(__file__).with_name("mutations.py"))
assert _spec is not None
assert _spec.loader is not None
mutations = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(mutations)

EACH = int(os.environ.get("CCA_FUZZ", "25"))
SECONDS = 2.0

TEMPLATE = {
    "question_annotated": "{name,Ann} has {n,5} and eats {k,2}.\n#init:\n- name = sample(names)\n- $n = range(3, 20)\n"
    "- $k = range(1, 10)\n\n#conditions:\n- k < n\n\n#answer: n - k",
    "answer_annotated": "{n} - {k} = <<{n}-{k}={n-k}>>{n-k}\n#### {n-k}",
}
DECLARATION = "layers: model.layers\nattention: [self_attn, attention]\nqkv_layout: blocks\n"


@dataclass(frozen=True)
class Reader:
    """``read`` gives what the file says. ``sealed``: "" (anything may be read), "whole" (as it was written or
    refused), "prefix" (what a crash cut off is made again, the rest is as it was written) or "rows" (each has its hash:
    one that is read is as it was written, others are pending)."""

    file: str
    read: Callable[[Path], Any]
    sealed: str = ""


def _traces(path: Path) -> list[Any]:
    header = json.loads(_original(path).read_text().split("\n")[0])
    assert (header["format"], header["version"]) == (TRACES, TRACES_VERSION)
    log = RowLog(path, header, 4, header["rows"])
    return [[asdict(trace) for trace in own] for own in read_traces(path, log.rows())]


def _original(path: Path) -> Path:
    return path.parent.with_name("sound") / path.name


def _sampled(path: Path) -> list[str]:
    import numpy as np

    template, generator = Template.load(path), np.random.default_rng(0)
    return [template.sample(generator).question for _ in range(3)]


READERS = {
    "problems": Reader("train.jsonl", lambda path: [asdict(problem) for problem in read_problems(path)]),
    "traces": Reader("traces.jsonl", _traces, "rows"),
    "pivots": Reader("pivots.jsonl", lambda path: [pivot.to_row() for pivot in load_pivots(path)], "whole"),
    "circuit": Reader("circuit.jsonl", lambda path: [str(c) for c in load_circuit(path).components], "whole"),
    "patch": Reader("patch.safetensors", lambda path: digest(load_patch(path)), "whole"),
    "manifest": Reader("manifest.json", lambda path: RunFolder(path.parent).manifest(), "whole"),
    "manifest's configuration": Reader("manifest.json", lambda path: RunFolder(path.parent).config(), "whole"),
    "amplify": Reader("amplify.json", lambda path: read_sealed(path, "cca.amplify", 1), "whole"),
    "evaluation": Reader("evaluation.json", lambda path: read_sealed(path, "cca.evaluation", 1), "whole"),
    "times": Reader("timing.json", read_costs),
    "measurements": Reader("measurements.jsonl", lambda path: Measurements(path.parent)._known, "prefix"),
    "run.yaml": Reader("run.yaml", load_config),
    "compare.yaml": Reader("compare.yaml", load_compare),
    "anatomy": Reader("anatomy.yaml", read_declaration),
    "template": Reader("template.json", _sampled),
}  # fmt: skip
LOOKED_AT = (
    "manifest.json",
    "traces.jsonl",
    "pivots.jsonl",
    "circuit.jsonl",
    "amplify.json",
    "timing.json",
    "report.json",
)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sound files of every kind, most of them from a run."""
    place = tmp_path_factory.mktemp("fuzz")
    run(load_config(tiny_run.make(place)), NoProgress())
    shutil.copytree(place / "out", place / "sound")
    for name in ("train.jsonl", "run.yaml"):
        shutil.copy(place / name, place / "sound")
    shutil.copy(Path(__file__).parents[2] / "examples" / "compare.yaml", place / "sound")
    (place / "sound" / "template.json").write_text(json.dumps(TEMPLATE))
    (place / "sound" / "anatomy.yaml").write_text(DECLARATION)
    return place / "sound"


def outcome(read: Callable[[Path], Any], path: Path) -> tuple[bool, Any]:
    """(whether it was read, what it said or the refusal); a refusal is one line, and either comes soon."""
    began = time.process_time()
    refusal = None
    try:
        found = read(path)
    except CcaError as error:
        refusal = str(error)
    assert time.process_time() - began < SECONDS
    if refusal is None:
        return True, found
    assert "\n" not in refusal
    assert len(refusal) < 1200
    return False, refusal


@pytest.mark.parametrize("name", READERS)
def test_damage_is_refused_or_harmless(name: str, sound: Path, tmp_path: Path) -> None:
    reader, folder = READERS[name], tmp_path / "damaged"
    (tmp_path / "sound").symlink_to(sound)
    folder.mkdir()
    data = (sound / reader.file).read_bytes()
    (folder / reader.file).write_bytes(data)
    well, expected = outcome(reader.read, folder / reader.file)
    assert well, expected
    refused = 0
    for number in range(EACH):
        spoilt = mutations.damaged(data, f"{name} {number}")
        (folder / reader.file).write_bytes(spoilt)
        well, found = outcome(reader.read, folder / reader.file)
        refused += not well
        if well and reader.sealed:
            by_hand = reader.sealed == "whole" and not _has_hash(spoilt)
            assert _same(found, expected, reader.sealed) or by_hand, f"{name} {number}"
    assert refused


@pytest.mark.parametrize("file", LOOKED_AT)
def test_looking_at_a_damaged_run(file: str, sound: Path, tmp_path: Path) -> None:
    """`cca status` and `cca report` of a folder with one damaged file."""
    folder = tmp_path / "run"
    shutil.copytree(sound, folder)
    data = (sound / file).read_bytes()
    for number in range(max(3, EACH // 5)):
        (folder / file).write_bytes(mutations.damaged(data, f"look {file} {number}"))
        outcome(status, folder)
        outcome(render_page, folder)


def _has_hash(data: bytes) -> bool:
    """True while the header has its content hash; files written by hand may do without."""
    try:
        header = json.loads(data if data[:2] == b"{\n" else data.split(b"\n")[0])
    except (ValueError, RecursionError):
        return True
    return not isinstance(header, dict) or "hash" in header


def _same(found: Any, expected: Any, sealed: str) -> bool:
    if sealed == "whole" or not isinstance(expected, list | dict):
        return found == expected
    if isinstance(expected, dict):
        return all(expected.get(key) == value for key, value in found.items())
    return all(row in expected for row in found)


@pytest.mark.parametrize("name", [name for name, reader in READERS.items() if reader.sealed == "rows"])
def test_a_row_of_a_log_that_changed_is_not_read(name: str, sound: Path, tmp_path: Path) -> None:
    reader, folder = READERS[name], tmp_path / "damaged"
    (tmp_path / "sound").symlink_to(sound)
    folder.mkdir()
    header, *rows = (sound / reader.file).read_text().splitlines()
    last = json.loads(rows[-1])
    last["problem" if name == "traces" else "key"] += "x"
    (folder / reader.file).write_text("\n".join([header, *rows[:-1], json.dumps(last)]) + "\n")
    whole, found = reader.read(sound / reader.file), reader.read(folder / reader.file)
    assert 0 < len(found) < len(whole)
    assert _same(found, whole, "rows")
