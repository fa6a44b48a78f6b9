"""Choosing tokens: what every engine shares."""

from __future__ import annotations

import torch

from cca.engines.decoding import choose, uniforms


def test_a_longer_draw_begins_with_the_shorter_one() -> None:
    """Batches draw as many numbers as their longest text may have, so the count must not change the first ones."""
    longest = uniforms(11, 2049)
    for steps in (1, 2, 7, 8, 15, 16, 17, 64, 1000):
        assert torch.equal(uniforms(11, steps), longest[:steps])
    assert not torch.equal(uniforms(12, 8), longest[:8])


def test_places_are_those_of_the_cumulative_distribution() -> None:
    probabilities = torch.tensor([0.5, 0.0, 0.25, 0.25])
    logits = probabilities.log().expand(6, 4)
    places = torch.tensor([0.0, 0.49, 0.51, 0.74, 0.76, 0.999999])
    assert choose(logits, torch.ones(6), places).tolist() == [0, 0, 2, 2, 3, 3]


def test_a_token_of_probability_zero_is_never_drawn() -> None:
    logits = torch.tensor([[0.0, 0.5, 0.5]]).log()
    assert choose(logits, torch.ones(1), torch.zeros(1)).tolist() == [1]


def test_heat_evens_the_probabilities_out() -> None:
    logits = torch.tensor([0.8, 0.2]).log().expand(3, 2)  # at 0.5, 1 and 2: the first has 0.94, 0.8 and 0.67
    temperatures = torch.tensor([0.5, 1.0, 2.0])
    assert choose(logits, temperatures, torch.full((3,), 0.7)).tolist() == [0, 0, 1]
    assert choose(logits, temperatures, torch.full((3,), 0.9)).tolist() == [0, 1, 1]


def test_greedy_and_sampled_rows_share_a_batch() -> None:
    logits = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    assert choose(logits, torch.tensor([0.0, 1.0]), torch.tensor([0.1, 0.1])).tolist() == [1, 0]
