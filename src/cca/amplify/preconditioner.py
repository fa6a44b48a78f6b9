"""Steps that keep away from what other skills rest on: row gradients whitened by the Fisher information of other text.

Moving a row by dw moves its output by dw . x at a token with input x, which costs about (d dw . x)^2 / 2 nats there,
where d is the derivative of a drawn token's log-probability with respect to that output. On text of other skills the
expected cost is dw F dw^T / 2 with F = E[d^2 x x^T], the row's block of the Fisher information. For a given cost, the
direction that lowers the pivot objective most is g F^-1: what retention text reads and rests on is left alone, and
the directions it hardly uses carry the step.

One F is kept a layer, the mean over its rows in the circuit. That lies between K-FAC (Martens and Grosse, 2015, arXiv
1503.05671), which averages d^2 and x x^T apart, and a block for every row; ROME (arXiv 2202.05262, eq. 2) writes into
one layer with E[x x^T] alone. F is sampled once, on the model as it is before the first step, divided by its mean
diagonal, so that every layer keeps its share of the step, and damped. Rows with no input vector of their own (biases,
input columns, fused expert stacks) step along their plain gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

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


class Whitening:
    """Maps a row gradient g, (k, d), to g (F / mean diagonal + damping)^-1; a `Precondition`.

    ``factors``: the lower Cholesky factor of that matrix, (d, d), on the parameter's device, for each key that has one.
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

    damping: added to the diagonal, in units of its mean; > 0. Raises CcaError without texts.
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
) -> dict[Key, Tensor]:
    """E[d^2 x x^T] a solution token, averaged over the rows of each linear layer, (d, d), summed in float64.

    Keyed like `TrainableRows.masters`; keys whose rows are not output features of a linear layer are left out.
    """
    linear = {
        (row.parameter, row.axis): (model.get_submodule(row.parameter.rpartition(".")[0]), row)
        for row in rows
        if _has_input_vector(model.get_submodule(row.parameter.rpartition(".")[0]), row)
    }
    blocks: dict[Key, Tensor] = {}
    for batch in buckets([len(prompt) + len(solution) for prompt, solution in texts], batch_size):
        own = [texts[row] for row in batch]
        seen: dict[Key, tuple[Tensor, Tensor]] = {}
        with ExitStack() as stack:
            stack.enter_context(frozen(model))
            for key, (module, row) in linear.items():
                stack.callback(module.register_forward_hook(_watcher(seen, key, row)).remove)
            likelihood = drawn_log_likelihood(model, own, generator)
            derivatives = torch.autograd.grad(likelihood, [probe for _, probe in seen.values()])
        for (key, (inputs, _)), derivative in zip(seen.items(), derivatives, strict=True):
            # Padding has no derivative: no drawn token is after it.
            wide = torch.promote_types(inputs.dtype, torch.float32)
            weight = derivative.to(wide).square().mean(dim=-1).flatten()
            x = inputs.to(wide).flatten(0, -2)
            block = ((x * weight[:, None]).T @ x).double()
            blocks[key] = blocks[key] + block if key in blocks else block
    tokens = sum(len(solution) for _, solution in texts)
    return {key: block / tokens for key, block in blocks.items()}


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


def _factor(block: Tensor, damping: float) -> Tensor:
    scale = block.diagonal().mean().clamp_min(torch.finfo(block.dtype).tiny)
    damped = block / scale + damping * torch.eye(len(block), dtype=block.dtype, device=block.device)
    return torch.linalg.cholesky(damped).float()
