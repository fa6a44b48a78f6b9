"""Whitened steps: row gradients divided by the Fisher information of text of other skills.

Moving a row by dw moves its output by dw . x at a token with input x, which costs about (d dw . x)^2 / 2 nats there,
where d is the derivative of a sampled token's log-probability with respect to that output. On text of other skills the
expected cost is dw F dw^T / 2 with F = E[d^2 x x^T], the row's block of the Fisher information. For a given cost, the
direction that lowers the pivot objective most is g F^-1: it avoids the directions that the text depends on.

One F is kept per layer, the mean over its rows in the circuit. That lies between K-FAC (Martens and Grosse, 2015, arXiv
1503.05671), which averages d^2 and x x^T apart, and a block for every row. F of a few hundred texts knows little of
texts like them, so a share of E[x x^T] is added, which needs no sampling (ROME writes with it alone: arXiv 2202.05262,
eq. 2), and a damping. Each is divided by its mean diagonal, so that every layer keeps its share of the step. F is
sampled once, on the model before the first step; the processes of a run share the texts (`cca.distributed`).

The fused experts of a layer are one layer here: a token costs nothing in the rows of experts that it is not routed to,
so F is the mean over the rows of all experts in the circuit, each over the tokens that reach it. Rows without an input
vector of their own (biases, input columns) step along their plain gradients.

A `Probe` is a zero added to the outputs of some rows of a layer. The derivative with respect to it is the derivative
with respect to those outputs, token by token, where the gradient of the weights has only their sum.

* Rows of linear layers: the zero is added to the layer's output.
* Rows of fused experts (transformers' ExpertsInterface): the experts' own forward pass is left as it is, whichever
  kernel runs it. Their output gets the change that the zero makes there, so again zero: for each expert with rows
  among them, down(neurons(inner + probe)) - down(neurons(inner)) at the tokens routed to it, times their weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from cca import distributed
from cca.gradients.sampled_likelihood import MOST_TEXTS, Text, deal_batches, sampled_log_likelihood, usable_texts
from cca.gradients.trainable_rows import Key
from cca.models.anatomy.weight_rows import WeightRows
from cca.models.checkpoint import row_shape
from cca.models.forward.expert_gates import activated, inner, linear, routing
from cca.models.forward.gates import frozen_weights
from cca.models.precision import in_double, wide, wide_dtype

INPUTS = 0.1
"""Weight of E[x x^T] next to F, both in units of their mean diagonal."""
SAMPLES = 4
"""Times that the tokens of each text are sampled."""


@dataclass(frozen=True)
class Block:
    """Second moments of a layer's inputs x, both (d, d): F per solution token, E[x x^T] per token that is read.

    In float32, or float64 for a float64 model. Layers that read the same input share one tensor E[x x^T].
    """

    fisher: Tensor
    inputs: Tensor


class Whitening:
    """Maps the gradients g of rows, (k, d), to the directions g M^-1 with M = F + INPUTS * E[x x^T] + damping.

    ``factors``: the lower Cholesky factor of M, (d, d) in float32, on the parameter's device, for each key that has
    one; other gradients are returned as they are.
    """

    def __init__(self, factors: Mapping[Key, Tensor]) -> None:
        self.factors = dict(factors)

    def __call__(self, gradients: Mapping[Key, Tensor]) -> dict[Key, Tensor]:
        return {key: self._whitened(key, gradient) for key, gradient in gradients.items()}

    def _whitened(self, key: Key, gradient: Tensor) -> Tensor:
        factor = self.factors.get(key)
        if factor is None:
            return gradient
        return torch.cholesky_solve(gradient.T.to(factor), factor).T.to(gradient)


def measure_whitening(
    model: PreTrainedModel,
    rows: Sequence[WeightRows],
    texts: Sequence[Text],
    damping: float,
    generator: torch.Generator,
    batch_size: int = MOST_TEXTS,
) -> Whitening:
    """Measure the `Whitening` of every layer that owns some of ``rows``, on the solution tokens of ``texts``.

    damping: added to the diagonal of M, in units of its mean; > 0. batch_size: texts per pass. Raises CcaError without
    texts.
    """
    texts = usable_texts(texts, "whitening by Fisher information")
    blocks = fisher_blocks(model, rows, texts, generator, batch_size)
    return Whitening({key: _factor(blocks.pop(key), damping) for key in list(blocks)})


def fisher_blocks(
    model: PreTrainedModel,
    rows: Sequence[WeightRows],
    texts: Sequence[Text],
    generator: torch.Generator,
    batch_size: int = MOST_TEXTS,
    samples: int = SAMPLES,
) -> dict[Key, Block]:
    """The `Block` of each layer of ``rows``, keyed like `TrainableRows.masters`; F is the mean over the layer's rows.

    Rows that read no vector and layers that no text reaches are left out.
    """
    rows = rows_with_input(model, rows)
    if not rows:
        return {}
    number = {(row.parameter, row.axis): len(row.indices) for row in rows}
    fisher = {key: _no_moment(model, key) for key in number}  # sums of d^2 x x^T
    inputs: dict[Key, Tensor] = {}  # sums of x x^T, by the first key that reads the input
    reads: dict[Key, int] = dict.fromkeys(number, 0)
    first_reader: dict[Key, Key] = {}
    with probed(model, rows) as probes:
        for batch, own_generator, counts in deal_batches(model, texts, batch_size, samples, generator):
            likelihood = sampled_log_likelihood(model, batch, own_generator)
            derivatives = torch.autograd.grad(likelihood, [probe.zero for probe in probes])
            for readers in _by_input(probes, derivatives):
                first = readers[0][0].key
                first_reader |= {probe.key: first for probe, _ in readers}
                if first not in inputs:
                    inputs[first] = _no_moment(model, first)
                if not counts:
                    continue
                x, weights = _contributing(readers, number)
                for (probe, _), own_weights in zip(readers, weights, strict=True):
                    fisher[probe.key] += (x * own_weights[:, None]).T @ x
                inputs[first] += x.T @ x
                reads[first] += len(x)
            probes.clear()
    for moments in (fisher, inputs):
        for key in sorted(moments):  # the same order in all processes
            distributed.all_reduce_(moments[key])
    read_by_all = dict(zip(reads, distributed.all_reduce_sums(*reads.values()), strict=True))
    sampled = samples * sum(len(solution) for _, solution in texts)
    for moment in fisher.values():
        moment /= sampled
    for key, moment in inputs.items():
        moment /= max(1, read_by_all[key])
    return {
        key: Block(moment, inputs[first_reader[key]])
        for key, moment in fisher.items()
        if read_by_all[first_reader[key]]
    }


def _by_input(probes: Sequence[Probe], derivatives: Sequence[Tensor]) -> list[Readers]:
    """The probes of one forward pass in groups that read the same tensor, such as those of q, k and v."""
    groups: dict[tuple[int, ...], Readers] = {}
    for number, (probe, derivative) in enumerate(zip(probes, derivatives, strict=True)):
        # tensors without elements, of experts without tokens, have no address of their own
        address = (probe.x.data_ptr(), *probe.x.shape) if probe.x.numel() else (-1, number)
        groups.setdefault(address, []).append((probe, derivative))
    return list(groups.values())


def _contributing(readers: Readers, number: Mapping[Key, int]) -> tuple[Tensor, list[Tensor]]:
    """The inputs (n, d) at which any reader has a derivative (so no padding), and each reader's mean d^2, (n,)."""
    weights = [(wide(derivative).square().sum(dim=-1) / number[probe.key]).flatten() for probe, derivative in readers]
    chosen = torch.stack(weights).sum(dim=0) > 0
    return wide(readers[0][0].x).flatten(0, -2)[chosen], [own[chosen] for own in weights]


def _no_moment(model: PreTrainedModel, key: Key) -> Tensor:
    """Zeros (d, d) for the rows of ``key``, next to their weight."""
    weight = model.get_parameter(key[0])
    d = row_shape(weight.shape, key[1])[1]
    return torch.zeros(d, d, dtype=wide_dtype(weight.dtype), device=weight.device)


def _factor(block: Block, damping: float) -> Tensor:
    """The lower Cholesky factor of M in float32; in float64 on the way, as M is nearly singular."""
    fisher, inputs = (_scaled(in_double(moment)) for moment in (block.fisher, block.inputs))
    identity = torch.eye(len(fisher), dtype=fisher.dtype, device=fisher.device)
    return torch.linalg.cholesky(fisher + INPUTS * inputs + damping * identity).float()


def _scaled(moment: Tensor) -> Tensor:
    return moment / moment.diagonal().mean().clamp_min(torch.finfo(moment.dtype).tiny)


@dataclass(frozen=True)
class Probe:
    """``x`` (..., d): the input of the rows of ``key``; ``zero`` (..., k): part of the output of k of them, a leaf."""

    key: Key
    x: Tensor
    zero: Tensor


Readers = list[tuple[Probe, Tensor]]
"""Probes with the derivatives with respect to their zeros."""


def rows_with_input(model: PreTrainedModel, rows: Sequence[WeightRows]) -> list[WeightRows]:
    """The ``rows`` that multiply an input vector: neither biases nor input columns."""
    return [row for row in rows if _hook(_module(model, row), row, []) is not None]


@contextmanager
def probed(model: PreTrainedModel, rows: Sequence[WeightRows]) -> Iterator[list[Probe]]:
    """Within the block every forward pass appends its probes of ``rows``, which must be `rows_with_input`."""
    probes: list[Probe] = []
    with ExitStack() as stack:
        stack.enter_context(frozen_weights(model))
        for row in rows:
            module = _module(model, row)
            hook = _hook(module, row, probes)
            assert hook is not None, f"{row.parameter}: rows along axis {row.axis} read no vector"
            stack.callback(module.register_forward_hook(hook, with_kwargs=True).remove)
        yield probes


def _module(model: PreTrainedModel, row: WeightRows) -> nn.Module:
    return model.get_submodule(row.parameter.rpartition(".")[0])


def _hook(module: Any, row: WeightRows, probes: list[Probe]) -> Callable[..., Tensor] | None:
    """The forward hook that probes ``row``; None for a row without an input vector of its own."""
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
        x, chosen, weights = (part.detach() for part in routing(experts, args, kwargs))  # (N, C), (N, K), (N, K)
        each = getattr(experts, row.parameter.rpartition(".")[2]).shape[row.axis]
        owner, within = row.indices // each, row.indices % each
        # also for an expert without tokens, so that there is always a backward pass, which all processes make at once
        for e in owner.unique().tolist():
            own = within[owner == e].to(x.device)
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
