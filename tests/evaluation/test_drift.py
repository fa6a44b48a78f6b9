from __future__ import annotations

import pytest
import torch

import tiny_world
from cca.evaluation import retention
from cca.evaluation.retention import DriftProbe
from cca.gradients.sampled_likelihood import Text


def test_drift_is_the_mean_kl_over_solution_tokens() -> None:
    model = tiny_world.model()
    texts = [Text((5, 6, 7), (8, 9)), Text((10,), (11, 12, 13, 14)), Text((3, 4), (5,))]
    before = tiny_world.model()
    probe = DriftProbe(model, texts, batch_size=2)
    assert probe.tokens == 7
    assert probe.drift() == 0.0
    with torch.no_grad():
        model.get_parameter("model.layers.1.mlp.up_proj.weight")[:5] *= 1.5
    expected = []
    for text in texts:
        ids = torch.tensor([text.prompt + text.solution])
        old, new = (m(input_ids=ids).logits[0].log_softmax(-1) for m in (before, model))
        for place in range(len(text.prompt) - 1, ids.shape[1] - 1):
            expected.append(float((old[place].exp() * (old[place] - new[place])).sum()))
    assert probe.drift() == pytest.approx(sum(expected) / 7, rel=1e-4)
    assert probe.drift() > 1e-5


def test_where_memory_is_short_every_skill_keeps_its_part(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_world.model()
    vocabulary = model.config.vocab_size
    texts = [Text((first,), (5, 6)) for first in range(1, 11)]
    monkeypatch.setattr(retention, "MAX_CACHED_BYTES", 4 * vocabulary * 9)
    assert [text.prompt[0] for text in DriftProbe(model, texts).texts] == [1, 4, 7, 10]
    monkeypatch.setattr(retention, "MAX_CACHED_BYTES", 4 * vocabulary)
    assert DriftProbe(model, texts).drift() == 0.0
