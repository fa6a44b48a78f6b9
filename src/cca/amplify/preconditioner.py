"""Steps that keep away from what other skills rest on: row gradients whitened by the Fisher information of other text.

Moving a row by dw moves its output by dw . x at a token with input x, which costs about (d dw . x)^2 / 2 nats there,
where d is the derivative of a drawn token's log-probability with respect to that output. On text of other skills the
expected cost is dw F dw^T / 2 with F = E[d^2 x x^T], the row's block of the Fisher information. For a given cost, the
direction that lowers the pivot objective most is g F^-1: what retention text reads and rests on is left alone, and
the directions it hardly uses carry the step.

One F is kept a layer, the mean over its rows in the circuit. That lies between K-FAC (Martens and Grosse, 2015, arXiv
1503.05671), which averages d^2 and x x^T apart, and a block for every row. F of a few hundred texts knows little of
texts like them, so a share of E[x x^T] is added, which needs no draws (ROME writes with it alone: arXiv 2202.05262,
eq. 2), and a damping. Each is divided by its mean diagonal, so that every layer keeps its share of the step. Sampled
once, on the model as it is before the first step. Rows with no input vector of their own (biases, input columns, fused
expert stacks) step along their plain gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from cca.errors import CcaError
from cca.models.drawn import Text, drawn_log_likelihood
from cca.models.frozen import frozen
from cca.models.prefixes import buckets
from cca.models.trainable_rows import Key
from cca.models.weight_rows import WeightRows

Precondition = Callable[[Mapping[Key, Tensor]], dict[Key, Tensor]]
"""From the gradients of the masters, (k, row length) each, to the directions to step along, of the same shapes."""


INPUTS = 0.1
"""Weight of E[x x^T] beside F, both in units of their mean diagonal."""
SAMPLES = 4
"""Times each text's tokens are drawn."""


@dataclass(frozen=True)
class Block:
    """What is known of a layer's rows on given text, both (d, d) in float64: F a solution token, E[x x^T] a token."""

    fisher: Tensor
    inputs: Tensor


class Whitening:
    """Maps a row gradient g, (k, d), to g M^-1; a `Precondition`.

    ``factors``: the lower Cholesky factor of M, (d, d), on the parameter's device, for each key that has one.
    """

    def __init__(self, factors: Mapping[Key, Tensor]) -> None:
        self.factors = dict(factors)

    def __call__(self, gradients: Mapping[Key, Tensor]) -> dict[Key, Tensor]:
        return {key: self._whitened(key, gradient) for key, gradient in gradients.items()}

    def _whitened(self, key: Key, gradient: Tensor) -> Tensor:
        factor = self.factors.get(key)
        if factor is None:
            return gradient
        return torch.cholesky_solve(gradient.T.to(factor.dtype), factor).T.to(gradient.dtype)


def whitening(
    model: PreTrainedModel,
    rows: Sequence[WeightRows],
    texts: Sequence[Text],
    damping: float,
    generator: torch.Generator,
    batch_size: int = 16,
) -> Whitening:
    """Sample F at every linear layer that owns some of ``rows``, on all tokens of ``texts``.

    damping: added to the diagonal of both parts, in units of its mean; > 0. Raises CcaError without texts.
    """
    texts = [text for text in texts if text[0] and text[1]]
    if not texts:
        raise CcaError(
            "amplify.precondition: fisher: expected text of other skills to spare, got none; add retention sets"
        )
    blocks = fisher_blocks(model, rows, texts, generator, batch_size)
    return Whitening({key: _factor(block, damping) for key, block in blocks.items()})


def fisher_blocks(
    model: PreTrainedModel,
    rows: Sequence[WeightRows],
    texts: Sequence[Text],
    generator: torch.Generator,
    batch_size: int = 16,
    samples: int = SAMPLES,
) -> dict[Key, Block]:
    """The `Block` of each linear layer of ``rows``; F is averaged over the layer's rows among them.

    Keyed like `TrainableRows.masters`; keys whose rows are not output features of a linear layer are left out.
    """
    linear = {
        (row.parameter, row.axis): (model.get_submodule(row.parameter.rpartition(".")[0]), row)
        for row in rows
        if _has_input_vector(model.get_submodule(row.parameter.rpartition(".")[0]), row)
    }
    fisher: dict[Key, Tensor] = {}
    inputs: dict[Key, Tensor] = {}
    reads: dict[Key, int] = {}
    for batch in samples * buckets([len(prompt) + len(solution) for prompt, solution in texts], batch_size):
        seen: dict[Key, tuple[Tensor, Tensor]] = {}
        with ExitStack() as stack:
            stack.enter_context(frozen(model))
            for key, (module, row) in linear.items():
                stack.callback(module.register_forward_hook(_watcher(seen, key, row)).remove)
            likelihood = drawn_log_likelihood(model, [texts[row] for row in batch], generator)
            derivatives = torch.autograd.grad(likelihood, [probe for _, probe in seen.values()])
        for (key, (x, _)), derivative in zip(seen.items(), derivatives, strict=True):
            wide = torch.promote_types(x.dtype, torch.float32)
            weights = derivative.to(wide).square().mean(dim=-1).flatten()
            rested_on = weights > 0  # no drawn token rests on padding
            x, weights = x.to(wide).flatten(0, -2)[rested_on], weights[rested_on]
            _add(fisher, key, (x * weights[:, None]).T @ x)
            _add(inputs, key, x.T @ x)
            reads[key] = reads.get(key, 0) + len(x)
    drawn = samples * sum(len(solution) for _, solution in texts)
    return {key: Block(fisher[key] / drawn, inputs[key] / max(1, reads[key])) for key in fisher}


def _add(sums: dict[Key, Tensor], key: Key, term: Tensor) -> None:
    sums[key] = sums[key] + term.double() if key in sums else term.double()


def _watcher(seen: dict[Key, tuple[Tensor, Tensor]], key: Key, row: WeightRows) -> Callable[..., Tensor]:
    """A forward hook that keeps the layer's input, and adds a zero to the rows' outputs to take the derivative by."""

    def hook(_: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
        indices = row.indices.to(out.device)
        probe = out.new_zeros(*out.shape[:-1], len(indices)).requires_grad_()
        seen[key] = (args[0].detach(), probe)
        return out.index_add(-1, indices, probe)

    return hook


def _has_input_vector(module: nn.Module, row: WeightRows) -> bool:
    """Whether the rows are output features of a layer that multiplies them with its input."""
    out_axis = 1 if isinstance(module, Conv1D) else 0
    linear = isinstance(module, nn.Linear | Conv1D)
    return linear and not row.parameter.endswith("bias") and row.axis == out_axis


def _factor(block: Block, damping: float) -> Tensor:
    identity = torch.eye(len(block.fisher), dtype=block.fisher.dtype, device=block.fisher.device)
    metric = _scaled(block.fisher) + INPUTS * _scaled(block.inputs) + damping * identity
    return torch.linalg.cholesky(metric).float()


def _scaled(moment: Tensor) -> Tensor:
    return moment / moment.diagonal().mean().clamp_min(torch.finfo(moment.dtype).tiny)
