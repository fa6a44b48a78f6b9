"""Probes: what rows read at every token, and where to take the derivative by what they write.

A *probe* is a zero added to the outputs of some rows of a layer. The derivative of anything by it is the derivative by
those outputs, token by token, which the gradient of the weights has summed up already.

* Rows of linear layers: the zero is added to the layer's output.
* Rows of fused experts (transformers' ExpertsInterface): the experts' own forward pass is left as it is, whichever
  kernel runs it. What is added to its output is what the zero changes there, so again zero: of each expert with rows
  among them, down(neurons(inner + probe)) - down(neurons(inner)) at the tokens routed to it, times their weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from cca.gradients.trainable_rows import Key
from cca.models.anatomy.weight_rows import WeightRows
from cca.models.forward.expert_gates import activated, inner, linear, routing
from cca.models.forward.frozen import frozen


@dataclass(frozen=True)
class Probe:
    """``x`` (..., d): what rows of ``key`` read; ``zero`` (..., k): in what k of them write, a leaf."""

    key: Key
    x: Tensor
    zero: Tensor


def readable(model: PreTrainedModel, rows: Sequence[WeightRows]) -> list[WeightRows]:
    """Those of ``rows`` that multiply an input vector: not biases, nor input columns."""
    return [row for row in rows if _hook(_module(model, row), row, []) is not None]


@contextmanager
def probed(model: PreTrainedModel, rows: Sequence[WeightRows]) -> Iterator[list[Probe]]:
    """Within the block every forward pass adds its probes of ``rows`` to the list. Rows must be `readable`."""
    probes: list[Probe] = []
    with ExitStack() as stack:
        stack.enter_context(frozen(model))
        for row in rows:
            module = _module(model, row)
            hook = _hook(module, row, probes)
            assert hook is not None, f"{row.parameter}: rows along axis {row.axis} read no vector"
            stack.callback(module.register_forward_hook(hook, with_kwargs=True).remove)
        yield probes


def _module(model: PreTrainedModel, row: WeightRows) -> nn.Module:
    return model.get_submodule(row.parameter.rpartition(".")[0])


def _hook(module: Any, row: WeightRows, probes: list[Probe]) -> Callable[..., Tensor] | None:
    """The forward hook that probes ``row``; None where it reads no vector of its own."""
    name = row.parameter.rpartition(".")[2]
    if isinstance(module, nn.Linear | Conv1D):
        out_axis = 1 if isinstance(module, Conv1D) else 0
        return _linear_hook(row, probes) if name == "weight" and row.axis == out_axis else None
    if hasattr(module, "has_gate") and name in ("gate_up_proj", "up_proj"):
        return _expert_hook(row, probes) if row.axis == (2 if module.is_transposed else 1) else None
    return None


def _linear_hook(row: WeightRows, probes: list[Probe]) -> Callable[..., Tensor]:
    def hook(_module: nn.Module, args: tuple[Tensor, ...], _kwargs: dict[str, Any], out: Tensor) -> Tensor:
        indices = row.indices.to(out.device)
        zero = out.new_zeros(*out.shape[:-1], len(indices)).requires_grad_()
        probes.append(Probe((row.parameter, row.axis), args[0].detach(), zero))
        return out.index_add(-1, indices, zero)

    return hook


def _expert_hook(row: WeightRows, probes: list[Probe]) -> Callable[..., Tensor]:
    def hook(experts: Any, args: tuple, kwargs: dict[str, Any], out: Tensor) -> Tensor:
        x, chosen, weights = (
            part.detach() for part in routing(experts, args, kwargs)
        )  # (N, C), (N, K), (N, K)
        each = getattr(experts, row.parameter.rpartition(".")[2]).shape[row.axis]
        owner, places = row.indices // each, row.indices % each
        # an expert without tokens too: then a backward pass, which all ranks make at once, there is always
        for e in owner.unique().tolist():
            own = places[owner == e].to(x.device)
            here, slot = torch.where(chosen == e)
            read = inner(experts, x[here], e)  # (n, rows of one expert)
            zero = read.new_zeros(len(here), len(own)).requires_grad_()
            probes.append(Probe((row.parameter, row.axis), x[here], zero))
            down = experts.down_proj[e]
            moved = linear(experts, activated(experts, read.index_add(-1, own, zero)), down)
            change = moved - linear(experts, activated(experts, read), down)
            out = out.index_add(0, here, (change * weights[here, slot, None]).to(out.dtype))
        return out

    return hook
