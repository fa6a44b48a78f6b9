"""The roofline: arithmetic anyone can do by hand, and what does and does not get faster with more devices."""

from __future__ import annotations

from dataclasses import replace

import pytest

import tiny_world
from cca.models.anatomy import anatomy_of
from cca.runs.cost_model import (
    Hardware,
    PivotWork,
    Shape,
    amplify_step,
    attribution,
    generation,
    masking,
    natural,
    speed,
    whitening,
)
from cca.runs.decoding_cost import Work

SHAPE = Shape(parameters=1e9, layers=10, kv_values=1000)
ONE = Hardware(flops=1e14, bandwidth=1e12, layer_pass=1e-4)
EIGHT = replace(ONE, copies=8)
PIVOTS = PivotWork(count=800, shared=1000, own=100)


def test_the_shape_is_read_off_the_model() -> None:
    model = tiny_world.model()
    shape = Shape.of(anatomy_of(model), 8)
    assert shape.weight_bytes == 8 * sum(parameter.numel() for parameter in model.parameters())
    config = model.config
    head = config.hidden_size // config.num_attention_heads
    assert shape.kv_values == config.num_hidden_layers * config.num_key_value_heads * 2 * head


def test_a_decoding_step_reads_the_weights_and_a_token_computes() -> None:
    step, token, prompt_token, request, read = speed(SHAPE, ONE, context=500).per
    assert step == pytest.approx(2e9 / 1e12 + 10 * 1e-4)
    assert token == pytest.approx(2e9 / 1e14 + 500 * 2000 / 1e12)
    assert (prompt_token, request, read) == (pytest.approx(2e9 / 1e14), 0, pytest.approx(2e9 / 1e14))


def test_text_scales_and_masks_do_not() -> None:
    work = Work(steps=100, tokens=10_000, prompt_tokens=5000, requests=100)
    assert generation(SHAPE, EIGHT, work, 500) == pytest.approx(generation(SHAPE, ONE, work, 500) / 8)
    alone, together = (masking(SHAPE, hardware, PIVOTS, epochs=50, batch=8)[1] for hardware in (ONE, EIGHT))
    assert together > 0.9 * alone
    assert amplify_step(SHAPE, EIGHT, PIVOTS) < amplify_step(SHAPE, ONE, PIVOTS) / 4


def test_a_step_is_a_forward_and_a_backward_pass_of_every_batch() -> None:
    passes, tokens = 1 + 800 / 32, 1000 + 800 * 100
    forward = passes * (2e9 / 1e12 + 10 * 1e-4) + 2e9 * tokens / 1e14
    assert amplify_step(SHAPE, ONE, PIVOTS) == pytest.approx(2 * forward)


def test_attribution_is_an_epoch_of_a_mask() -> None:
    prefixes, epoch = attribution(SHAPE, ONE, PIVOTS, batch=8)
    assert masking(SHAPE, ONE, PIVOTS, epochs=50, batch=8) == pytest.approx((prefixes, 50 * epoch))
    assert PIVOTS.prefix_bytes(SHAPE) == (1000 + 800 * 100) * 2000


def test_spread_weights_are_gathered_for_every_pass() -> None:
    spread = replace(ONE, spread=8, gather=1e11)
    assert spread.a_pass(SHAPE) == pytest.approx(2e9 * 7 / 8 / 1e11 + 10 * 1e-4)
    assert replace(spread, gather=1e15).a_pass(SHAPE) == pytest.approx(ONE.a_pass(SHAPE))


def test_the_natural_circuit_is_a_step_and_four_readings_of_the_spared_texts_a_group() -> None:
    fisher = whitening(SHAPE, ONE, texts=160, tokens=50)
    assert fisher == pytest.approx(2 * (4 * 10 * ONE.a_pass(SHAPE) + ONE.tokens(SHAPE, 4 * 160 * 50)))
    assert whitening(SHAPE, EIGHT, texts=160, tokens=50) == pytest.approx(fisher / 8)
    once = amplify_step(SHAPE, ONE, PIVOTS) + fisher
    assert natural(SHAPE, ONE, PIVOTS, 160, 50, groups=3) == pytest.approx(3 * once)
