"""Twenty runs and comparisons stopped at random moments: the same command then finds what an unbroken one finds."""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

import tiny_run
from forge import Forge
from tiny_world import WORDS, tokenizer

SLOW, QUICK = pytest.mark.slow, pytest.mark.integration
SIGNALS = ((signal.SIGINT, False), (signal.SIGINT, True), (signal.SIGTERM, False), (signal.SIGTERM, True))
"""Each to the process alone and, as a terminal and a scheduler send it, to its group: helpers get it too."""
STOPS = [
    (work, *((signal.SIGKILL, False), *SIGNALS)[seed % 5], seed)
    for seed, work in enumerate(["run"] * 5 + ["math"] * 8 + ["compare"] * 7)
]
QUICKLY = (18,)
"""The seed that the integration tier looks at: SIGTERM to a group, while comparing."""
STOPPED = (130, 143, -signal.SIGINT, -signal.SIGTERM, -signal.SIGKILL)


@dataclass(frozen=True)
class Work:
    """A command with what it found when nothing stopped it."""

    command: tuple[str | Path, ...]
    found: Any
    seconds: float


class Works:
    """The unbroken works, each done when it is first asked for."""

    def __init__(self, folder: Path, forge: Forge) -> None:
        self.folder, self.forge, self.done = folder, forge, dict[str, Work]()

    def __getitem__(self, name: str) -> Work:
        if name not in self.done:
            command = {"run": run, "math": math, "compare": compare}[name](self.folder / name)
            began = time.monotonic()
            code, output = self.forge.cca(*command)
            assert code == 0, output
            seconds = time.monotonic() - began
            self.done[name] = Work(command, found(self.folder / name), seconds)
        return self.done[name]


def run(folder: Path, **changes: Any) -> tuple[str | Path, ...]:
    return "run", tiny_run.make(folder, **changes)


def math(folder: Path) -> tuple[str | Path, ...]:
    """A run whose model writes formulas, most of which only the judge's helper can compare with the gold answer."""
    words = list(WORDS)
    for number in range(3, len(words)):
        if number % 3:
            words[number] = f"<answer>(x+{1 if number % 6 == 1 else number})^2+{number}-{number}</answer>"
    command = run(folder, judge="math")
    tokenizer(words).save_pretrained(folder / "model")
    for split in tiny_run.SIZES:
        rows = [json.loads(line) for line in (folder / f"{split}.jsonl").read_text().splitlines()]
        for row in rows:
            row["answer"] = "x^2+2x+1"
            row["prompt"] = re.sub(r"w(\d+)", lambda match: words[int(match[1])], row["prompt"])
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return command


def compare(folder: Path) -> tuple[str | Path, ...]:
    _, path = run(folder)
    settings = yaml.safe_load(Path(path).read_text())
    model = {"name": "tiny", **{key: settings.pop(key) for key in ("model", "task", "retention")}}
    arms = [
        {"name": "ours", "controls": {"random": 1}},
        {"name": "others", "set": {"circuit.localiser": "attribution"}},
        {"name": "lora", "baseline": "lora-pivots", "options": {"steps": 2}},
    ]
    whole = {"out": settings.pop("out"), "models": [model], "base": settings, "test": True, "arms": arms}
    (folder / "compare.yaml").write_text(yaml.safe_dump(whole))
    return "compare", folder / "compare.yaml"


def found(folder: Path) -> Any:
    """All that a run or a comparison found, without times."""
    out = folder / "out"
    if not (out / "compare.json").exists():
        return tiny_run.outcome(out)
    rows = [json.loads(line)["value"] for line in (out / "arms.jsonl").read_text().splitlines()[1:]]
    return timeless([json.loads((out / "compare.json").read_text()), sorted(rows, key=lambda row: row["key"])])


def timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: timeless(item) for key, item in value.items() if "seconds" not in key}
    return [timeless(item) for item in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def works(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Works]:
    with Forge() as forge:
        yield Works(tmp_path_factory.mktemp("works"), forge)


def cases() -> list[Any]:
    return [
        pytest.param(
            work, number, group, seed, marks=QUICK if seed in QUICKLY else SLOW,
            id=f"{seed}-{work}-{signal.Signals(number).name}-{'group' if group else 'process'}",
        )
        for work, number, group, seed in STOPS
    ]  # fmt: skip


@pytest.mark.parametrize(("name", "number", "group", "seed"), cases())
def test_stopped_at_a_random_moment(name: str, number: int, group: bool, seed: int, works: Works) -> None:
    work, out, moments = works[name], works.folder / name / "out", random.Random(seed)
    for _ in range(20):
        shutil.rmtree(out)
        moment = moments.uniform(0.05, work.seconds)
        code, output = works.forge.cca(*work.command, signals=[[moment, number]], group=group)
        if code:
            break  # else it was done before the signal came
    assert code in STOPPED, output
    assert "Traceback" not in output
    code, output = works.forge.cca(*work.command)
    assert code == 0, output
    assert found(works.folder / name) == work.found, f"stopped after {moment:.2f} of {work.seconds:.2f} s"
