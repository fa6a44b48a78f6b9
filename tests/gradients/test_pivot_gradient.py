"""The gradient of the pivot objective: micro-batches, float32, bfloat16, checkpoints, and what is never run backwards.

That it is the gradient of dense autograd, on every architecture, is in tests/architectures/test_amplify.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel
from zoo import VOCABULARY, tiny, whole_gaps

import tiny_world
from cca.errors import CcaError
from cca.gradients.pivot_gradient import MIN_SHARED, OBJECTIVES, add_pivot_gradient
from cca.gradients.trainable_rows import Key, TrainableRows
from cca.models.anatomy.anatomy import anatomy_of
from cca.models.anatomy.components import Component
from cca.pivots.pivot import Pivot

SHARED = torch.randint(3, VOCABULARY, (MIN_SHARED,), generator=torch.Generator().manual_seed(2)).tolist()
SOFTPLUS = OBJECTIVES["softplus"]


def rows_of(model: PreTrainedModel, layers: Sequence[int] = (0, 1), mode: str = "full") -> TrainableRows:
    anatomy = anatomy_of(model)
    chosen = [
        Component(layer, kind, index)
        for layer in layers
        for kind, index in (("q", 1), ("k", 1), ("v", 0), ("neuron", 4), ("neuron", 7))
    ]
    return TrainableRows(model, anatomy.rows(chosen, mode))


def gradients(rows: TrainableRows) -> dict[Key, Tensor]:
    return {key: master.grad.clone() for key, master in rows.masters.items() if master.grad is not None}


def gradient_of(
    model: PreTrainedModel, pivots: Sequence[Pivot], batch_size: int = 4, checkpointing: bool = False
) -> tuple[tuple[float, float], dict[Key, Tensor]]:
    rows = rows_of(model)
    told = add_pivot_gradient(model, anatomy_of(model), rows, pivots, SOFTPLUS, batch_size, checkpointing=checkpointing)
    return told, gradients(rows)


def test_micro_batches_add_up_and_gradients_accumulate_until_cleared() -> None:
    model, pivots = tiny_world.model(), tiny_world.pivots(7, shared=SHARED)
    told, whole = gradient_of(model, pivots, batch_size=7)
    for batch_size in (1, 3):
        again, parts = gradient_of(model, pivots, batch_size)
        assert again == pytest.approx(told, rel=1e-9)
        torch.testing.assert_close(parts, whole, rtol=1e-6, atol=1e-7)  # the model's norms are float32 inside
    rows = rows_of(model)
    for _ in range(2):
        add_pivot_gradient(model, anatomy_of(model), rows, pivots, SOFTPLUS, 7)
    torch.testing.assert_close(gradients(rows), {key: 2 * grad for key, grad in whole.items()})


def test_objective_and_gap_are_means() -> None:
    model, pivots = tiny_world.model(), tiny_world.pivots(5, shared=SHARED)
    expected = whole_gaps(model, pivots)
    loss, gap = add_pivot_gradient(model, anatomy_of(model), rows_of(model), pivots, SOFTPLUS, 2)
    assert loss == pytest.approx(float(SOFTPLUS(expected).mean()), rel=1e-6)
    assert gap == pytest.approx(float(expected.mean()), rel=1e-6)


def test_an_objective_may_read_logits() -> None:
    model, pivots = tiny_world.model(), tiny_world.pivots(5, shared=SHARED)

    def by_logits(_: Tensor, logits: Tensor, numbers: Sequence[int]) -> Tensor:
        """softplus once more, from logits and pivot numbers alone."""
        gaps = [logits[at, pivots[n].desired] - logits[at, pivots[n].undesired] for at, n in enumerate(numbers)]
        return SOFTPLUS(torch.stack(gaps))

    told, expected = gradient_of(model, pivots, batch_size=2)
    rows = rows_of(model)
    assert add_pivot_gradient(model, anatomy_of(model), rows, pivots, by_logits, 2) == told
    torch.testing.assert_close(gradients(rows), expected)


def test_nothing_below_the_lowest_layer_that_trains_is_run_backwards() -> None:
    model = tiny("llama").requires_grad_(True)  # whatever the weights ask for
    anatomy, reached, pivots = anatomy_of(model), set(), tiny_world.pivots(4, shared=SHARED)

    def watch(layer: int, out: Tensor) -> None:
        if out.requires_grad:
            out.register_hook(lambda _: reached.add(layer))

    for layer, module in enumerate(model.get_decoder().layers):
        module.mlp.register_forward_hook(lambda _module, _args, out, layer=layer: watch(layer, out))
    add_pivot_gradient(model, anatomy, rows_of(model, layers=(1,)), pivots, SOFTPLUS, 2)
    assert reached == {1}
    add_pivot_gradient(model, anatomy, rows_of(model, layers=(0, 1)), pivots, SOFTPLUS, 2)
    assert reached == {0, 1}
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_a_bfloat16_model_gives_float32_gradients_close_to_those_of_float32() -> None:
    narrow, wide = tiny("llama").to(torch.bfloat16), tiny("llama").to(torch.bfloat16).float()
    pivots = tiny_world.pivots(6, shared=SHARED)
    (_, found), (_, expected) = gradient_of(narrow, pivots), gradient_of(wide, pivots)
    assert {gradient.dtype for gradient in found.values()} == {torch.float32}
    flat, true = (torch.cat([gradient.flatten() for gradient in each.values()]) for each in (found, expected))
    assert float(torch.cosine_similarity(flat, true, dim=0)) > 0.99


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "opt", "mixtral"])
def test_checkpoints_change_no_gradient(name: str) -> None:
    """GPT-2 and OPT have dropout, which must stay off."""
    model, pivots = tiny_world.model(name, torch.float32), tiny_world.pivots(5, shared=SHARED)
    told, expected = gradient_of(model, pivots, batch_size=3)
    calls = [0]
    layers = anatomy_of(model).layers
    for parts in layers:
        assert parts.attention is not None
        model.get_submodule(parts.attention).register_forward_pre_hook(lambda *_: calls.__setitem__(0, calls[0] + 1))
    again, found = gradient_of(model, pivots, batch_size=3, checkpointing=True)
    assert calls[0] == 2 * 3 * len(layers)  # the shared prefix and two batches, each run again on the way back
    assert again == told
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
    assert not model.training
    assert not any(module.training for module in model.modules())
    assert not model.is_gradient_checkpointing


def test_models_that_read_prefixes_from_a_cache_are_not_checkpointed() -> None:
    model = tiny_world.model("falcon", torch.float32)
    with pytest.raises(CcaError, match="falcon: expected an architecture that can be checkpointed"):
        gradient_of(model, tiny_world.pivots(2), checkpointing=True)
    assert not any(module.training for module in model.modules())
