"""What a run is foretold to take, held against what it takes; and the roofline of `cca.runs.cost_model` here.

1. `cca plan` of the demo and of a larger generated model, then both runs: seconds of each stage, happened / planned.
   Of amplify and controls for the steps they took, as how many there are nobody knows beforehand.
2. Constants of the roofline, fitted to forward passes of three models and shapes, and its error on others.

``python -m benchmarks.scaling examples`` prints the predictions of docs/scaling.md for hardware that is not at hand.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import nnls
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import Olmo2Config, Olmo2ForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from benchmarks.measuring import Measured, Row
from benchmarks.models import random_llama
from cca.amplify.natural import HELD
from cca.models.anatomy import anatomy_of
from cca.runs.config import Config, make_config
from cca.runs.cost_model import (
    Hardware,
    PivotWork,
    Shape,
    amplify_step,
    attribution,
    generation,
    masking,
    natural,
)
from cca.runs.decoding_cost import Work
from cca.runs.narrator import Silent
from cca.runs.pipeline import run
from cca.runs.plan import make_plan

VOCABULARY = 320
LARGER = {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 8, "num_attention_heads": 6}
"""15M parameters, 18 times tinymath."""
LARGER_OLMO = {
    "vocab_size": VOCABULARY, "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 8,
    "num_attention_heads": 8, "max_position_embeddings": 512, "pad_token_id": 0, "eos_token_id": None,
}  # fmt: skip
"""8.6M parameters, ten times tinymath, of another architecture."""
FITTED = [(1, 1), (16, 1), (64, 1), (1, 128), (16, 128)]
"""Rows and tokens of the forward passes that constants are fitted to."""
HELD_OUT = [(4, 1), (32, 1), (4, 64), (32, 32)]


def measure() -> list[Row]:
    rows = _told(_roofline())
    with tempfile.TemporaryDirectory() as folder:
        for name, config in (("demo", _demo(Path(folder))), ("OLMo-2, 8.6M", _larger(Path(folder)))):
            rows += _told(_held(name, config))
    return rows


def _told(rows: list[Row]) -> list[Row]:
    for row in rows:
        print(f"{row.what}: {row.measured} [{row.verdict}] {row.details}", flush=True)
    return rows


def _held(name: str, config: Config) -> list[Row]:
    """A row a stage. The plan is made first, as a user does."""
    make_plan(config, Silent())
    report = run(config, Silent())
    rows = []
    for stage, own in report["plan"].items():
        seconds = own["seconds"]
        details = f"planned {seconds['planned']:.1f} s, took {seconds['happened']:.1f} s"
        if "seconds_for_steps" in own:
            seconds = own["seconds_for_steps"]
            details += f"; for the steps taken {seconds['planned']:.1f} s"
        ratio = seconds["ratio"] or 0.0
        if stage == "total" or seconds["happened"] < 1:
            continue
        low, high = 1 / 1.5, 1.5
        inside = low <= ratio <= high
        rows.append(
            Row(f"{name}: seconds of {stage}", "cca plan", Measured((ratio,)), ("<=", high), details)
            if ratio >= 1 or inside
            else Row(f"{name}: seconds of {stage}", "cca plan", Measured((ratio,)), (">=", low), details)
        )
    return rows


def _demo(folder: Path) -> Config:
    return make_config(
        {
            "model": "tinymath",
            "task": "tinymath",
            "out": str(folder / "demo"),
        }
    )


def _larger(folder: Path) -> Config:
    """A random model that is right by chance: a text is when it holds one of some words."""
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
    return make_config(
        {
            "model": str(folder / "model"),
            "task": {split: str(folder / f"{split}.jsonl") for split in ("train", "validation", "test")},
            "retention": [str(folder / "other.jsonl")],
            "judge": "regex",
            "out": str(folder / "larger"),
            "traces": {"max_new_tokens": 32, "samples": 4},
        }
    )


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


H100 = Hardware(flops=0.4 * 989e12, bandwidth=0.6 * 3.35e12, layer_pass=60e-6)
"""Data sheet peaks (SXM, dense bf16) at assumed efficiencies: none of this was measured."""
GATHER = {1: 0.7 * 450e9, 8: 0.7 * 50e9}
"""Bytes a second and GPU at which FSDP gets weights, by nodes: NVLink (450 GB/s a way), 400 Gbit/s a GPU between."""
SHAPES = {
    "Gemma-2-2B": Shape(2.6e9, 26, 26 * 4 * 2 * 256),
    "OLMo-2-13B": Shape(13.7e9, 40, 40 * 40 * 2 * 128),
    "70B (Llama-3 shape)": Shape(70.6e9, 80, 80 * 8 * 2 * 128),
}
FEW_SHOT, OWN, TRACE, PIVOTS, PROBLEMS = 1100, 200, 160, 1000, 2600
VALIDATION, STEPS = 2000, 20
SPARED, SPARED_TOKENS = 400, 200
"""Texts of four other skills, and their tokens."""


def examples() -> list[dict[str, Any]]:
    """GSM-Symbolic as the paper has it: 2,600 problems, 8-shot prompts, up to 4 samples each on average."""
    found = []
    for nodes in (1, 8):
        for name, shape in SHAPES.items():
            gpus = 8 * nodes
            fits = shape.weight_bytes < 60e9
            alone = replace(H100, copies=gpus)
            spread = replace(H100, copies=gpus, spread=gpus, gather=GATHER[nodes])
            gradients = alone if fits else spread
            decoding = alone if fits else replace(H100, copies=1, spread=gpus, gather=GATHER[nodes])
            pivots = PivotWork(PIVOTS, FEW_SHOT, OWN)
            context, batch = FEW_SHOT + OWN, 128
            traces = _work(PROBLEMS * 5, batch)
            prefixes, epoch = attribution(shape, gradients, pivots)
            dcm = sum(masking(shape, gradients, pivots, epochs=50, batch=8))
            # of the default rows, q, k, v and up, about half of all parameters are some, HELD of them at a time
            groups = min(shape.layers, math.ceil(shape.parameters / 2 / HELD))
            located = natural(shape, gradients, pivots, SPARED, SPARED_TOKENS, groups)
            step = amplify_step(shape, gradients, pivots)
            validation = generation(shape, decoding, _work(VALIDATION, batch), context)
            # tensor parallel over the GPUs of a node, as vLLM has it: weights and cache are split, none gathered
            vllm = replace(H100, copies=nodes, bandwidth=8 * H100.bandwidth, flops=8 * H100.flops)
            served = generation(shape, vllm, _work(PROBLEMS * 5, 256), context)
            found.append(
                {
                    "model": name, "GPUs": gpus, "sharding": "none" if fits else "fsdp",
                    "traces": generation(shape, decoding, traces, context), "traces, vLLM": served,
                    "attribution": prefixes + epoch, "natural": located, "DCM, 50 epochs": dcm,
                    f"{STEPS} steps": STEPS * step, f"{STEPS} validations": STEPS * validation,
                    "prefixes a GPU, GB": pivots.prefix_bytes(shape) / gpus / 1e9,
                }
            )  # fmt: skip
    return found


def _work(requests: float, batch: int) -> Work:
    """Completions of ``TRACE`` tokens, the longest of a batch twice that; few-shot examples are read once a batch."""
    batches = max(1.0, requests / batch)
    return Work(batches * 2 * TRACE, requests * TRACE, requests * OWN + batches * FEW_SHOT, requests)


if __name__ == "__main__":
    if sys.argv[1:] == ["examples"]:
        rows = examples()
        print("| " + " | ".join(rows[0]) + " |\n|" + "---|" * len(rows[0]))
        for row in rows:
            print(
                "| " + " | ".join(f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()) + " |"
            )
    else:
        torch.set_num_threads(int(sys.argv[1]) if sys.argv[1:] else 2)
        measure()
