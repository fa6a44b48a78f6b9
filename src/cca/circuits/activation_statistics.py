"""Weights times activations, forward only, in the style of MathNeuro (arXiv 2410.16930).

A weight's importance to a set of texts is |W_ij| * ||x_j||, with the norm of its input feature over the texts' tokens
(Wanda's score, arXiv 2306.11695); a component's is the sum over the weights of its rows. A component is specific to the
task when it is among the K most important of its kind on task text and not among the K most important on other text.
For a circuit of n components K is the smallest that leaves n of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from cca.circuits.circuit import Circuit
from cca.engines.engine import Tokens
from cca.errors import CcaError
from cca.models.anatomy.anatomy import Anatomy
from cca.models.anatomy.components import Component
from cca.models.forward.prefixes import buckets, padded

ROLES = {"q": "q", "k": "k", "v": "v", "neuron": "up"}
"""Kind of component -> role of the weights that make it."""


def importance(
    model: PreTrainedModel, anatomy: Anatomy, texts: Sequence[Tokens], batch_size: int = 32
) -> Tensor:
    """Sum of |W| * ||x|| over each component's rows, (anatomy.size,) in float32 or wider, on the CPU.

    Raises CcaError without texts, and for models whose components are not rows of linear layers.
    """
    texts = [text for text in texts if text]
    if not texts:
        raise CcaError("activation statistics: expected texts, got none")
    patterns = [p for layer in anatomy.layers for p in layer.patterns if ROLES.get(p.kind) == p.role]
    modules = {pattern.module: model.get_submodule(pattern.module) for pattern in patterns}
    for name, module in modules.items():
        if not isinstance(module, nn.Linear | Conv1D):
            raise CcaError(
                f"activation statistics: expected linear layers, got {type(module).__name__} at {name}"
            )
    squares = _input_squares(model, modules, texts, batch_size)
    wide = torch.promote_types(model.dtype, torch.float32)
    scores = torch.zeros(anatomy.size, dtype=wide)
    for layer in anatomy.layers:
        for pattern in layer.patterns:
            if ROLES.get(pattern.kind) != pattern.role:
                continue
            weight = model.get_parameter(pattern.weight).detach().to(wide)
            rows = weight if pattern.axis == 0 else weight.T
            by_row = (rows.abs() @ squares[pattern.module].sqrt()).cpu()
            start = anatomy.span(layer.index, pattern.kind).start + pattern.first
            indices = pattern.indices(torch.arange(pattern.n))
            scores[start : start + pattern.n] += by_row[indices].sum(dim=1)
    return scores


def specific_circuit(task: Tensor, other: Tensor, anatomy: Anatomy, counts: Mapping[str, int]) -> Circuit:
    """Of each kind as many components as ``counts`` asks for; scores are importance on the task.

    Raises CcaError when no K leaves that many.
    """
    chosen: dict[Component, float] = {}
    for kind, count in counts.items():
        own = list(anatomy.components([kind]))
        where = torch.tensor([anatomy.index(component) for component in own])
        for place in _specific(task[where], other[where], count, kind):
            chosen[own[place]] = float(task[where[place]])
    return Circuit.of(chosen, "activation", chosen)


def _specific(task: Tensor, other: Tensor, count: int, kind: str) -> list[int]:
    """The most important ``count`` places of top_K(task) minus top_K(other), for the smallest K that has them."""
    order = task.argsort(descending=True, stable=True).tolist()
    rank_of_other = other.argsort(descending=True, stable=True).argsort().tolist()
    most = 0
    for K in range(count, len(order) + 1):
        left = [place for place in order[:K] if rank_of_other[place] >= K]
        if len(left) >= count:
            return left[:count]
        most = max(most, len(left))
    raise CcaError(
        f"activation statistics: expected {count} components of kind {kind} specific to the task, found at most "
        f"{most}; ask for a smaller circuit"
    )


def _input_squares(
    model: PreTrainedModel, modules: Mapping[str, nn.Module], texts: Sequence[Tokens], batch_size: int
) -> dict[str, Tensor]:
    """Of each module the sum over all tokens of the squares of its input, (features,)."""
    wide = torch.promote_types(model.dtype, torch.float32)
    squares: dict[str, Tensor] = {}
    real = torch.ones(1, 1, dtype=torch.bool)

    def hook(name: str) -> Callable[..., None]:
        def add(_: nn.Module, args: tuple[Any, ...]) -> None:
            x = args[0].detach()[real].to(wide)  # (tokens, features)
            squares[name] = squares.get(name, torch.zeros((), dtype=wide)) + x.square().sum(dim=0)

        return add

    with ExitStack() as stack, torch.no_grad():
        for name, module in modules.items():
            stack.callback(module.register_forward_pre_hook(hook(name)).remove)
        for batch in buckets([len(text) for text in texts], batch_size):
            token_ids, lengths = padded([texts[row] for row in batch], model.device)
            real = torch.arange(token_ids.shape[1], device=model.device) < lengths[:, None]
            model(input_ids=token_ids, use_cache=False, logits_to_keep=1)
    return squares
