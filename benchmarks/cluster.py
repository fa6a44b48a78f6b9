"""`cca.runs.cost_model` on hardware that is not at hand: the table of worked examples in docs/scaling.md.

``python -m benchmarks.cluster`` prints it; change the constants here for other hardware.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

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
from cca.runs.plan_work import ANEW

from cca.circuits.natural import HELD

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
PARTING = 0.4
"""Share of the validation answers that part from the base's, as on tinymath."""
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
            validation = generation(shape, decoding, _judged(VALIDATION, batch), context)
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


def _judged(problems: float, batch: int) -> Work:
    """A step's validation: the base's answers are read, and those that part from it written anew from there."""
    read = problems * (OWN + TRACE) + math.ceil(problems / batch) * FEW_SHOT
    part = _work(PARTING * problems, batch)
    return replace(part, tokens=ANEW["task"] * problems * TRACE, read=read)


def main() -> None:
    rows = examples()
    print("| " + " | ".join(rows[0]) + " |\n|" + "---|" * len(rows[0]))
    for row in rows:
        cells = (f"{value:.3g}" if isinstance(value, float) else str(value) for value in row.values())
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
