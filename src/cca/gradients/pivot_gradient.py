"""The gradient of the pivot objective with respect to the rows being trained.

The prefix that all pivots share is run once a step, with gradient, as a batch of one. Micro-batches of pivots attend to
its keys and values as leaves; their summed gradient then flows back through the one prefix graph. That is the gradient
of running every full prompt, for a fraction of the work. Among several processes (`cca.distributed`) each takes its
share of the micro-batches, and the gradients are summed at the end of the step.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from cca import distributed
from cca.engines.engine import Progress
from cca.gradients.checkpointing import checkpointed
from cca.gradients.objectives import LogitObjective, Objective
from cca.gradients.pivot_forward import logit_gaps
from cca.models.anatomy.anatomy import Anatomy
from cca.models.forward.prefixes import SharedPrefix, buckets, common_prefix, logits_at, padded, prefill
from cca.pivots.pivot import Pivot

MIN_SHARED = 16
"""Tokens from which on a shared prefix pays for its own forward pass."""


class Trained(Protocol):
    """What is trained (`TrainableRows`, adapters): while `active`, the model computes with it."""

    @property
    def leaves(self) -> Sequence[Tensor]:
        """What collects gradients."""
        ...

    def active(self) -> AbstractContextManager[None]: ...


def add_pivot_gradient(
    model: PreTrainedModel,
    anatomy: Anatomy,
    rows: Trained,
    pivots: Sequence[Pivot],
    objective: Objective | LogitObjective,
    batch_size: int,
    progress: Progress | None = None,
    checkpointing: bool = False,
) -> tuple[float, float]:
    """Add the gradient of the mean objective to what ``rows`` train; returns (mean objective, mean logit gap).

    batch_size: pivots of one forward and backward pass; ``progress`` counts pivots. checkpointing: keep no
    activations inside layers, for a second forward pass of each.
    """
    tokens = [pivot.tokens for pivot in pivots]
    shared_length = common_prefix(tokens)
    shared_length = shared_length if shared_length >= MIN_SHARED else 0
    loss_sum = gap_sum = 0.0
    context = checkpointed(model, anatomy) if checkpointing else nullcontext()
    with distributed.summed_gradients(rows.leaves), context, rows.active():
        graph = prefill(model, anatomy, tokens[0][:shared_length], with_grad=True) if shared_length else None
        shared = _as_leaves(graph) if graph else None
        batches = buckets([len(row) for row in tokens], distributed.even_batch_size(len(tokens), batch_size))
        for number, counts in distributed.my_share(len(batches)):
            batch = batches[number]
            own, lengths = padded([tokens[row][shared_length:] for row in batch], model.device)
            logits = logits_at(model, anatomy, own, lengths, shared=shared)
            gaps = logit_gaps(logits, *_pair(pivots, batch, logits.device))
            by_logits = isinstance(objective, LogitObjective)
            losses = objective.of_logits(logits, gaps, batch) if by_logits else objective(gaps)
            loss = counts * losses.sum() / len(pivots)
            loss.backward()
            loss_sum += float(loss.detach())
            gap_sum += counts * float(gaps.detach().sum())
            if progress:
                progress(len(batch))
        if graph and shared:
            _through_prefix(graph, shared)
    loss_sum, gap_sum = distributed.all_reduce_sums(loss_sum, gap_sum)
    return loss_sum, gap_sum / len(pivots)


def _pair(pivots: Sequence[Pivot], batch: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
    desired = torch.tensor([pivots[row].desired for row in batch], device=device)
    undesired = torch.tensor([pivots[row].undesired for row in batch], device=device)
    return desired, undesired


def _as_leaves(prefix: SharedPrefix) -> SharedPrefix:
    """The same keys and values cut off from their graph, collecting gradients of their own."""
    keys, values = (
        tuple(x.detach().requires_grad_(x.requires_grad) for x in side)
        for side in (prefix.keys, prefix.values)
    )
    return SharedPrefix(keys, values, prefix.length)


def _through_prefix(graph: SharedPrefix, leaves: SharedPrefix) -> None:
    """Send what the leaves collected back through the prefix's own forward pass."""
    pairs = zip((*graph.keys, *graph.values), (*leaves.keys, *leaves.values), strict=True)
    reached = [(ours, leaf.grad) for ours, leaf in pairs if leaf.grad is not None]
    if reached:
        torch.autograd.backward([ours for ours, _ in reached], [grad for _, grad in reached])
