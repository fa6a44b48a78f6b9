"""What a run is foretold to take, held against what it takes; and the roofline of `cca.runs.cost_model` here.

1. `cca plan` of the demo and of two larger generated models, then their runs: of each stage tokens, seconds and peak
   memory, happened / planned. Of amplify and controls for the steps they took, as how many there are nobody knows
   beforehand; in brackets, for the steps that were expected.
2. Constants of the roofline, fitted to forward passes of three models and shapes, and its error on others.

``python -m benchmarks.scaling [THREADS]`` (default: 2).
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from cca.runs.cost_model import Hardware, Shape
from scipy.optimize import nnls
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import Olmo2Config, Olmo2ForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from benchmarks.measuring import Measured, Row, cca
from benchmarks.models import random_llama, widened
from benchmarks.organisms import ORGANISMS
from cca.files import read_json
from cca.models.anatomy.anatomy import anatomy_of
from cca.problems.problem import write_problems

VOCABULARY = 320
LARGER = {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 8, "num_attention_heads": 6}
"""15M parameters, 18 times tinymath."""
FACTOR = 1.5
"""How far off a plan may be."""
LARGER_OLMO = {
    "vocab_size": VOCABULARY, "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 8,
    "num_attention_heads": 8, "max_position_embeddings": 512, "pad_token_id": 0, "eos_token_id": None,
}  # fmt: skip
"""8.6M parameters, ten times tinymath, of another architecture."""
WIDER = {"intermediate_size": 2400, "num_hidden_layers": 10, "layer_types": ["full_attention"] * 10}
FITTED = [(1, 1), (16, 1), (64, 1), (1, 128), (16, 128)]
"""Rows and tokens of the forward passes that constants are fitted to."""
HELD_OUT = [(4, 1), (32, 1), (4, 64), (32, 32)]


def measure() -> list[Row]:
    rows = _told(_roofline())
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name, given in (
            ("demo", _demo(folder)),
            ("widened ledger", _widened(folder)),
            ("random OLMo-2", _random(folder)),
        ):
            rows += _told(_held(name, given))
    return rows


def _told(rows: list[Row]) -> list[Row]:
    for row in rows:
        print(f"{row.what}: {row.measured} [{row.verdict}] {row.details}", flush=True)
    return rows


def _held(name: str, given: Mapping[str, Any]) -> list[Row]:
    """Rows of what each stage took. Planned and run by two processes, as a user does: what the first leaves in the
    allocator would make the second faster."""
    out = Path(given["out"])
    file = out.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(given))
    for command in ("plan", "run"):
        cca(command, str(file))
    rows = []
    for stage, own in read_json(out / "report.json")["plan"].items():
        for quantity in ("tokens", "seconds", "peak_cpu_bytes"):
            expected = own.get(quantity)
            taken = own.get(f"{quantity}_for_steps", expected)
            if not taken or not taken["ratio"]:
                continue
            details = f"planned {taken['planned']:.4g}, took {taken['happened']:.4g}"
            if taken is not expected:
                details += f" (steps expected: planned {expected['planned']:.4g}, {expected['ratio']:.2f})"
            ratio = taken["ratio"]
            reach = ("<=", FACTOR) if ratio >= 1 else (">=", 1 / FACTOR)
            rows.append(Row(f"{name}: {quantity} of {stage}", "cca plan", Measured((ratio,)), reach, details))
    return rows


def _demo(folder: Path) -> dict[str, Any]:
    return {"model": "tinymath", "task": "tinymath", "out": str(folder / "demo")}


def _widened(folder: Path) -> dict[str, Any]:
    """7.2M parameters that do what one of the model organisms does."""
    widened("ledger", WIDER, folder / "widened")
    files = {}
    for name, problems in ORGANISMS["ledger"].problems(seed=0).items():
        files[name] = str(folder / f"ledger-{name}.jsonl")
        write_problems(Path(files[name]), problems)
    task = {split: files.pop(split) for split in ("train", "validation", "test")}
    return {
        "model": str(folder / "widened"),
        "task": task,
        "retention": list(files.values()),
        "out": str(folder / "widened-run"),
    }


def _random(folder: Path) -> dict[str, Any]:
    """A random model that no step helps, right by chance: a text is when it holds some words."""
    torch.manual_seed(0)
    _save(Olmo2ForCausalLM(Olmo2Config(**LARGER_OLMO)).eval(), folder / "model")
    generator = torch.Generator().manual_seed(0)
    for name, count in (("train", 96), ("validation", 24), ("test", 48), ("other", 32)):
        words = torch.randint(3, VOCABULARY, (count, 24), generator=generator).tolist()
        problems = [
            {
                "id": f"{name}{i}", "template": f"t{i % 4}", "answer": r"\bw\d*7\b.*\bw\d*3\b",
                "solution": "w7 w3 " * 8,
                "prompt": " ".join(f"w{word}" for word in row),
            }
            for i, row in enumerate(words)
        ]  # fmt: skip
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in problems))
    return {
        "model": str(folder / "model"),
        "task": {split: str(folder / f"{split}.jsonl") for split in ("train", "validation", "test")},
        "retention": [str(folder / "other.jsonl")],
        "judge": "regex",
        "out": str(folder / "larger"),
        "traces": {"max_new_tokens": 32, "samples": 4},
    }


def _save(model: PreTrainedModel, folder: Path) -> None:
    backend = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCABULARY)}, unk_token="w0"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="w0", pad_token="w0")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _roofline() -> list[Row]:
    """Fit the constants on some shapes of pass, foretell others."""
    amounts: list[list[float]] = []
    seconds: list[float] = []
    tested: list[tuple[Shape, int, float]] = []
    for changes in ({}, {"num_hidden_layers": 12}, LARGER):
        model = random_llama(**changes)
        shape = Shape.of(anatomy_of(model), 4)
        for rows, tokens in FITTED:
            amounts.append([2 * shape.parameters * rows * tokens, shape.weight_bytes, shape.layers])
            seconds.append(_pass(model, rows, tokens))
        tested += [(shape, r * t, _pass(model, r, t)) for r, t in HELD_OUT]
    relative = np.array(amounts) / np.array(seconds)[:, None]
    per_operation, per_byte, per_layer = nnls(relative, np.ones(len(seconds)))[0]
    found = Hardware(1 / per_operation, 1 / max(per_byte, 1e-14), per_layer)
    print(
        f"roofline of this machine: {found.flops / 1e9:.1f} GFLOP/s, {found.bandwidth / 1e9:.1f} GB/s, "
        f"{1e6 * found.layer_pass:.0f} us a layer and pass"
    )
    ratios = [real / (found.a_pass(shape) + found.tokens(shape, count)) for shape, count, real in tested]
    worst = max(ratios, key=lambda ratio: max(ratio, 1 / ratio))
    details = f"{len(ratios)} passes of 3 models, from {min(ratios):.2f} to {max(ratios):.2f}"
    spread = Measured((max(worst, 1 / worst),))
    return [
        Row("forward passes, worst ratio", "roofline fitted to other shapes", spread, ("<=", 1.5), details)
    ]


def _pass(model: PreTrainedModel, rows: int, tokens: int) -> float:
    """The median of some forward passes, in seconds."""
    token_ids = torch.randint(3, VOCABULARY, (rows, tokens), generator=torch.Generator().manual_seed(0))
    taken = []
    with torch.inference_mode():
        for _ in range(7):
            began = time.perf_counter()
            model(input_ids=token_ids, use_cache=False, logits_to_keep=1)
            taken.append(time.perf_counter() - began)
    return sorted(taken)[3]


if __name__ == "__main__":
    threads = sys.argv[1] if sys.argv[1:] else "2"
    os.environ["OMP_NUM_THREADS"] = threads  # of the commands
    torch.set_num_threads(int(threads))
    measure()
