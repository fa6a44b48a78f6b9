"""With a large vocabulary, logits are computed where they are read and nowhere else: peak memory of each forward."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from benchmarks.memory import peak
from transformers import LlamaConfig, LlamaForCausalLM

from cca.circuits.attribution import gate_gradient
from cca.engines.engine import Request
from cca.engines.hf import HFEngine
from cca.evaluation.retention import DriftProbe
from cca.gradients.fisher import measure_whitening
from cca.gradients.sampled_likelihood import Text
from cca.models.anatomy.anatomy import anatomy_of
from cca.pivots.pivot import Pivot

VOCABULARY, ROWS, LENGTH, SOLUTION = 40_000, 8, 120, 4
ONE = VOCABULARY * 4
"""Bytes of the float32 logits of one position."""

torch.manual_seed(0)
MODEL = LlamaForCausalLM(
    LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, tie_word_embeddings=True,
    )
).eval().requires_grad_(False)  # fmt: skip
assert MODEL.generation_config is not None
MODEL.generation_config.eos_token_id = None
ANATOMY = anatomy_of(MODEL)
PROMPTS = [tuple(range(10 + row, 10 + row + LENGTH)) for row in range(ROWS)]
TEXTS = [Text(prompt, prompt[:SOLUTION]) for prompt in PROMPTS]
PIVOTS = [Pivot(f"p{row}", "t", prompt, (), 5, 6, True, "branching", 1) for row, prompt in enumerate(PROMPTS)]
ENGINE = HFEngine(MODEL, ROWS)
PROBE = DriftProbe(MODEL, TEXTS)


@pytest.mark.parametrize(
    ("forward", "positions"),
    [
        (lambda: ENGINE.complete([Request(prompt) for prompt in PROMPTS], 3), ROWS),
        (lambda: ENGINE.complete([Request(prompt, 1.0, 1) for prompt in PROMPTS], 3), ROWS),
        (lambda: ENGINE.greedy_paths([(prompt, prompt[:SOLUTION]) for prompt in PROMPTS]), ROWS * SOLUTION),
        (lambda: gate_gradient(MODEL, ANATOMY, PIVOTS), ROWS),
        (lambda: PROBE.drift(), ROWS * SOLUTION),
        (
            lambda: measure_whitening(
                MODEL, ANATOMY.rows(list(ANATOMY.components()), "full"), TEXTS, 0.01, torch.Generator().manual_seed(0)
            ),
            ROWS * SOLUTION,
        ),
    ],
    ids=["greedy", "sampled", "read", "pivots", "drift", "fisher"],
)
def test_logits_are_where_they_are_read(forward: Callable[[], None], positions: int) -> None:
    assert peak(forward) < 12 * positions * ONE < ROWS * LENGTH * ONE
