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
once, on the model as it is before the first step, the texts shared out over the processes of a run (`cca.distributed`).

The fused experts of a layer are one layer here: a token costs nothing in the rows of experts that it is not routed to,
so F is the mean over the rows of all experts in the circuit, each over the tokens that reach it. Rows with no input
vector of their own (biases, input columns) step along their plain gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from cca import distributed
from cca.engines.sampling import in_double
from cca.errors import CcaError
from cca.gradients.probes import probed, readable
from cca.gradients.sampled_likelihood import MOST_TEXTS, Text, dealt, drawn_log_likelihood
from cca.gradients.trainable_rows import Key
from cca.models.anatomy.weight_rows import WeightRows, row_shape

Precondition = Callable[[Mapping[Key, Tensor]], dict[Key, Tensor]]
"""From the gradients of the masters, (k, row length) each, to the directions to step along, of the same shapes."""


INPUTS = 0.1
"""Weight of E[x x^T] beside F, both in units of their mean diagonal."""
SAMPLES = 4
"""Times each text's tokens are drawn."""


@dataclass(frozen=True)
class Block:
    """What is known of a layer's rows on given text, both (d, d) in float64: F a solution token, E[x x^T] a read."""

    fisher: Tensor
    inputs: Tensor


class Whitening:
    """Maps a row gradient g, (k, d), to g M^-1; a `Precondition`.

    ``factors``: the lower Cholesky factor of M, (d, d), for each key that has one; on the parameter's device,
    or on the CPU where that is MPS.
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


def whitening(
    model: PreTrainedModel,
    rows: Sequence[WeightRows],
    texts: Sequence[Text],
    damping: float,
    generator: torch.Generator,
    batch_size: int = MOST_TEXTS,
) -> Whitening:
    """Sample F at every layer that owns some of ``rows``, on all tokens of ``texts``.

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
    batch_size: int = MOST_TEXTS,
    samples: int = SAMPLES,
) -> dict[Key, Block]:
    """The `Block` of each layer of ``rows``; F is averaged over the layer's rows among them.

    Keyed like `TrainableRows.masters`; left out are rows that read no vector, and layers that no text reaches.
    """
    rows = readable(model, rows)
    if not rows:
        return {}
    number = {(row.parameter, row.axis): len(row.indices) for row in rows}
    reads = dict.fromkeys(number, 0)
    moments: dict[Key, Tensor] = {}  # (2, d, d): sums of d^2 x x^T and of x x^T
    with probed(model, rows) as probes:
        for batch, drawing, counts in dealt(model, texts, batch_size, samples, generator):
            likelihood = drawn_log_likelihood(model, batch, drawing)
            derivatives = torch.autograd.grad(likelihood, [probe.zero for probe in probes])
            if counts:
                for probe, derivative in zip(probes, derivatives, strict=True):
                    x, weights = _rested_on(probe.x, derivative, number[probe.key])
                    more = in_double(torch.stack(((x * weights[:, None]).T @ x, x.T @ x)))
                    moments[probe.key] = moments[probe.key] + more if probe.key in moments else more
                    reads[probe.key] += len(x)
            probes.clear()
    if distributed.size() > 1:
        for key in number:
            d = row_shape(model.get_parameter(key[0]).shape, key[1])[1]
            nothing = torch.zeros(2, d, d, dtype=torch.float64, device=model.device)
            distributed.all_reduce_(moments.setdefault(key, nothing))
    read_by_all = dict(zip(reads, distributed.all_reduce_sums(*reads.values()), strict=True))
    drawn = samples * sum(len(solution) for _, solution in texts)
    return {
        key: Block(fisher / drawn, inputs / read_by_all[key])
        for key, (fisher, inputs) in moments.items()
        if read_by_all[key]
    }


def _rested_on(x: Tensor, derivative: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """The tokens that a drawn token rests on, which no padding is: (n, d), and their mean d^2 over ``rows``, (n,)."""
    wide = torch.promote_types(x.dtype, torch.float32)
    weights = (derivative.to(wide).square().sum(dim=-1) / rows).flatten()
    chosen = weights > 0
    return x.to(wide).flatten(0, -2)[chosen], weights[chosen]


def _factor(block: Block, damping: float) -> Tensor:
    identity = torch.eye(len(block.fisher), dtype=block.fisher.dtype, device=block.fisher.device)
    metric = _scaled(block.fisher) + INPUTS * _scaled(block.inputs) + damping * identity
    return torch.linalg.cholesky(metric).float()


def _scaled(moment: Tensor) -> Tensor:
    return moment / moment.diagonal().mean().clamp_min(torch.finfo(moment.dtype).tiny)
