"""A whole run on vLLM beside one on transformers, and vLLM serving what came of it: `make test-vllm` runs these."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from agreement import Tell, first_choices_gap

from cca.engines.decoding import end_tokens
from cca.engines.engine import Request, Tokens
from cca.engines.hf import HFEngine
from cca.engines.vllm import ENVIRONMENT
from cca.models.loading import load_model
from cca.patches.patch_file import load_patch
from cca.problems.problem import Problem, write_problems
from cca.tinymath import BUNDLED_MODEL
from cca.tinymath.task import load

pytestmark = pytest.mark.vllm

ASKED, LONGEST = 100, 100
NEAR = 1e-3
"""Logits: an adapter's output is added to the base's, not merged into its weights."""


def cca(*arguments: str | Path) -> str:
    command = [sys.executable, "-c", "from cca.cli import main; main()", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("vllm-run")
    task = load(3)
    splits = {"train": task.train[::5], "validation": task.validation[::4], "test": task.test[::6]}
    splits["facts"] = task.retention["facts"][:60]
    for name, problems in splits.items():
        write_problems(made / f"{name}.jsonl", problems)
    config = {
        "model": "tinymath",
        "task": {split: str(made / f"{split}.jsonl") for split in ("train", "validation", "test")},
        "retention": [str(made / "facts.jsonl")],
        "out": str(made / "out"),
        "evaluate": {"random_controls": 0},
        "amplify": {"steps": 8, "budget": {"drift": 4e-4}},
    }
    (made / "run.yaml").write_text(yaml.safe_dump(config))
    return made


@pytest.fixture(scope="module")
def reports(folder: Path) -> dict[str, dict[str, Any]]:
    found = {}
    for engine in ("hf", "vllm"):
        cca("run", folder / "run.yaml", "--set", f"engine={engine}", "--set", f"out={folder / engine}")
        found[engine] = json.loads((folder / engine / "report.json").read_text())
    return found


def test_a_run_on_vllm_gains_as_much(reports: dict[str, dict[str, Any]], tell: Tell) -> None:
    hf, vllm = reports["hf"], reports["vllm"]
    for name, report in reports.items():
        low, high = report["gain"]["interval"]
        seconds = {stage: round(account["seconds"]) for stage, account in report["timing"].items()}
        tell(f"{name}: gain {report['gain']['points']:.1f} points [{low:.1f}, {high:.1f}], seconds {seconds}")
    assert hf["gain"]["points"] > 5
    low, high = hf["gain"]["interval"]
    assert low <= vllm["gain"]["points"] <= high
    assert vllm["base"]["accuracy"] == pytest.approx(hf["base"]["accuracy"], abs=0.01)


def test_the_traces_files_agree(folder: Path, reports: dict[str, dict[str, Any]]) -> None:
    del reports
    ours, theirs = ((folder / name / "traces.jsonl").read_text().splitlines() for name in ("hf", "vllm"))
    assert len(ours) == len(theirs)
    assert sum(a == b for a, b in zip(ours, theirs, strict=True)) >= 0.98 * len(ours)


@pytest.fixture(scope="module")
def asked() -> list[tuple[Problem, Tokens]]:
    codec = load_model(str(BUNDLED_MODEL)).codec
    problems = load(3).test[:: len(load(3).test) // ASKED][:ASKED]
    return [(problem, codec.encode(problem.prompt)) for problem in problems]


@pytest.fixture(scope="module")
def expected(folder: Path, reports: dict[str, dict[str, Any]], asked: list[tuple[Problem, Tokens]]) -> list[Tokens]:
    """The greedy answers of the patched transformers model."""
    del reports
    model = load_model(str(BUNDLED_MODEL), dtype="float32").model
    requests = [Request(prompt) for _, prompt in asked]
    base = HFEngine(model).complete(requests, LONGEST)
    with load_patch(folder / "vllm" / "patch.safetensors").applied(model):
        patched = HFEngine(model).complete(requests, LONGEST)
    assert base != patched
    return [completion.token_ids for completion in patched]


@contextmanager
def serving(model: Path, **options: Any) -> Iterator[Any]:
    """vLLM as anyone starts it, without anything of ours."""
    os.environ.update({name: os.environ.get(name, value) for name, value in ENVIRONMENT.items()})
    from vllm import LLM  # pyright: ignore[reportMissingImports]

    llm = LLM(
        str(model), dtype="float32", max_model_len=256, enforce_eager=True, kv_cache_memory_bytes=1 << 28, **options
    )
    try:
        yield llm
    finally:
        llm.llm_engine.engine_core.shutdown()


@pytest.mark.parametrize("how", ["merged", "adapter"])
def test_served_answers_are_those_of_transformers(
    how: str, folder: Path, expected: list[Tokens], asked: list[tuple[Problem, Tokens]], tell: Tell
) -> None:
    from vllm import SamplingParams  # pyright: ignore[reportMissingImports]
    from vllm.lora.request import LoRARequest  # pyright: ignore[reportMissingImports]

    patch, out, lora = folder / "vllm" / "patch.safetensors", folder / how, None
    if how == "merged":
        cca("patch", "merge", BUNDLED_MODEL, patch, "--out", out)
        options: dict[str, Any] = {}
    else:
        cca("patch", "export", patch, "--model", BUNDLED_MODEL, "--to", "lora", "--pad-ranks", "--out", out)
        rank = json.loads((out / "adapter_config.json").read_text())["r"]
        lora, options = LoRARequest("patched", 1, str(out)), {"enable_lora": True, "max_lora_rank": rank}
    model = load_model(str(BUNDLED_MODEL), dtype="float32").model
    greedy = SamplingParams(temperature=0.0, max_tokens=LONGEST, stop_token_ids=sorted(end_tokens(model)))
    with serving(out if how == "merged" else BUNDLED_MODEL, **options) as llm:
        made = llm.generate(
            [{"prompt_token_ids": list(prompt)} for _, prompt in asked], greedy, use_tqdm=False, lora_request=lora
        )
    found = [tuple(output.outputs[0].token_ids) for output in made]
    same = sum(a == b for a, b in zip(found, expected, strict=True))
    tell(f"{how}: {same} of {len(asked)} answers are equal")
    with load_patch(patch).applied(model), torch.inference_mode():
        for (problem, prompt), ours, theirs in zip(asked, expected, found, strict=True):
            if ours != theirs:
                gap = first_choices_gap(model, prompt, ours, theirs)
                tell(f"{problem.id}: the two tokens were {gap:.1e} logits apart")
                assert gap < NEAR
    assert same >= 0.98 * len(asked)
