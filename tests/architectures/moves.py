"""Looking where a model keeps its components apart, and moving the rows that the anatomy names for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from cca.models.anatomy.anatomy import Anatomy
from cca.models.anatomy.components import Component
from cca.models.anatomy.weight_rows import WeightRows, get_rows, set_rows_

PROMPTS = torch.randint(3, 60, (2, 12), generator=torch.Generator().manual_seed(0))
Kept = list[tuple[WeightRows, Tensor]]


def at_output_projection(model: PreTrainedModel, anatomy: Anatomy) -> Tensor:
    """The last layer's attention result by Q head: (heads, ...)."""
    layer = anatomy.layers[-1]
    result = input_of(model, layer.pattern("o").module)
    return result.unflatten(-1, (layer.count("q"), -1)).movedim(-2, 0)


def at_projection(role: str) -> Callable[[PreTrainedModel, Anatomy], Tensor]:
    def seen(model: PreTrainedModel, anatomy: Anatomy) -> Tensor:
        layer = anatomy.layers[-1]
        outputs: list[Tensor] = []
        module = model.get_submodule(f"{layer.attention}.{role}_proj")
        handle = module.register_forward_hook(lambda _m, _i, output: outputs.append(output))
        logits(model)
        handle.remove()
        return outputs[0].unflatten(-1, (-1, layer.head_dim)).movedim(-2, 0)

    return seen


def in_cache(kind: str) -> Callable[[PreTrainedModel, Anatomy], Tensor]:
    def seen(model: PreTrainedModel, anatomy: Anatomy) -> Tensor:
        layer = anatomy.layers[-1]
        with torch.no_grad():
            cache = model(PROMPTS, use_cache=True).past_key_values
        kept = cache.layers[layer.index]
        states = kept.keys if kind == "k" else kept.values  # (B, heads, T, D)
        # Falcon keeps a copy of each K/V head for every Q head of its group.
        return states.unflatten(1, (layer.count("k"), -1)).movedim(1, 0)

    return seen


def at_attention(kind: str) -> Callable[[PreTrainedModel, Anatomy], Tensor]:
    def seen(model: PreTrainedModel, anatomy: Anatomy) -> Tensor:
        reads: list[Tensor] = []
        plain = ALL_ATTENTION_FUNCTIONS["sdpa"]

        def observe(module, query, key, value, *arguments, **options):
            reads.append(key if kind == "k" else value)
            return plain(module, query, key, value, *arguments, **options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(ALL_ATTENTION_FUNCTIONS, "sdpa", observe)
            logits(model)
        assert len(reads) == len(anatomy.layers)
        return reads[-1].movedim(1, 0)

    return seen


def input_of(model: PreTrainedModel, module: str) -> Tensor:
    inputs: list[Tensor] = []
    handle = model.get_submodule(module).register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    logits(model)
    handle.remove()
    return inputs[0].reshape(*PROMPTS.shape, -1)


def logits(model: PreTrainedModel) -> Tensor:
    with torch.no_grad():
        return model(PROMPTS).logits


def moved(before: Tensor, after: Tensor) -> set[int]:
    """Which heads differ. Nothing lies between rounding and a visible change."""
    change = (after - before).abs().flatten(1).amax(1)
    assert not ((change > 1e-6) & (change < 1e-4)).any(), change
    return set((change > 1e-5).nonzero().flatten().tolist())


def random_half(n: int) -> list[int]:
    return torch.randperm(n, generator=torch.Generator().manual_seed(2))[: n // 2].sort().values.tolist()


@contextmanager
def perturbed(model: PreTrainedModel, anatomy: Anatomy, components: list[Component]) -> Iterator[None]:
    """Add noise to the paper's rows of these components."""
    generator = torch.Generator().manual_seed(3)
    with rows_kept(model, anatomy.rows(components)) as kept:
        for row, old in kept:
            noise = torch.randn(old.shape, generator=generator)
            set_rows_(model.get_parameter(row.parameter), row.axis, row.indices, old + noise)
        yield


@contextmanager
def zeroed(model: PreTrainedModel, rows: Iterable[WeightRows], bias: float = 0.0) -> Iterator[None]:
    with rows_kept(model, rows) as kept:
        for row, old in kept:
            value = bias if row.parameter.endswith("bias") else 0.0
            set_rows_(model.get_parameter(row.parameter), row.axis, row.indices, torch.full_like(old, value))
        yield


@contextmanager
def rows_kept(model: PreTrainedModel, rows: Iterable[WeightRows]) -> Iterator[Kept]:
    kept = [(row, get_rows(model.get_parameter(row.parameter).detach(), row.axis, row.indices)) for row in rows]
    try:
        yield kept
    finally:
        for row, old in kept:
            set_rows_(model.get_parameter(row.parameter), row.axis, row.indices, old)


def rows_of_role(anatomy: Anatomy, components: list[Component], role: str) -> tuple[WeightRows, ...]:
    """The rows of one role alone, which no mode offers."""
    layers = tuple(
        replace(layer, patterns=tuple(replace(p, role="up" if p.role == role else "") for p in layer.patterns))
        for layer in anatomy.layers
    )
    return replace(anatomy, layers=layers).rows(components, "up")


def covered_scalars(shape: torch.Size, row: WeightRows) -> int:
    blank = torch.zeros(shape)
    rows = get_rows(blank, row.axis, row.indices)
    set_rows_(blank, row.axis, row.indices, torch.ones_like(rows))
    return int(blank.sum())
