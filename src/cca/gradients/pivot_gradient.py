"""The gradient of the pivot objective with respect to the rows being trained.

Objectives, of the logit gap z = logit(desired) - logit(undesired) of each pivot:

* ``logit-gap`` (the paper's): -z; unbounded, so it overshoots.
* ``softplus``: log(1 + exp(-z)); a pivot stops pulling once its gap is wide.
* ``cross-entropy``: -log p(desired), which also pulls against every token that is neither.
* ``dpo`` (arXiv 2305.18290, eq. 7): -log sigmoid(beta * (z - base z)). For one token the normalisers of the
  log-probabilities cancel, so logit gaps suffice; the reference is the model as it is when the objective is made.

The prefix that all pivots share is run once per step, with gradient, as a batch of one. Micro-batches of pivots attend
to its keys and values as leaves; their summed gradient then flows back through the one prefix graph. That is the
gradient of running every full prompt, for a fraction of the work. With several processes (`cca.distributed`) each takes
its share of the micro-batches, and the gradients are summed at the end of the step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from cca import distributed
from cca.errors import CcaError
from cca.gradients.pivot_forward import PivotForward, logit_gaps
from cca.gradients.sampled_likelihood import Text, solution_log_probabilities, usable_texts
from cca.models.anatomy.anatomy import Anatomy
from cca.models.forward.prefix_state import SharedPrefix
from cca.models.forward.prefixes import buckets, common_prefix, logits_at, most_tokens, padded, prefill
from cca.models.precision import wide, wide_dtype
from cca.pivots.pivot import Pivot

Objective = Callable[..., Tensor]
"""(gaps (B,), logits (B, V), the numbers of the pivots) -> losses (B,), in float32 or wider."""
OBJECTIVES: dict[str, Objective] = {
    "logit-gap": lambda gaps, *_: -gaps,
    "softplus": lambda gaps, *_: functional.softplus(-gaps),
}
"""Objectives that need the gaps alone."""
MIN_SHARED = 16
"""Shortest shared prefix, in tokens, that is worth a forward pass of its own."""


def make_objective(
    name: str, model: PreTrainedModel, anatomy: Anatomy, pivots: Sequence[Pivot], beta: float = 1.0
) -> Objective:
    """The objective with this name on these pivots; make it while the model is untouched.

    beta: how sharply dpo counts the gap against the base's, > 0. Raises CcaError for an unknown name.
    """
    if name == "cross-entropy":
        desired = torch.tensor([pivot.desired for pivot in pivots])

        def cross_entropy(_: Tensor, logits: Tensor, numbers: Sequence[int]) -> Tensor:
            return functional.cross_entropy(wide(logits), desired[numbers].to(logits.device), reduction="none")

        return cross_entropy
    if name == "dpo":
        base = base_gaps(model, anatomy, pivots)
        return lambda gaps, _, numbers: functional.softplus(-beta * (gaps - base[numbers].to(gaps)))
    if name not in OBJECTIVES:
        known = ", ".join((*OBJECTIVES, "cross-entropy", "dpo"))
        raise CcaError(f"objective: expected one of {known}, got {name!r}")
    return OBJECTIVES[name]


@torch.no_grad()
def base_gaps(model: PreTrainedModel, anatomy: Anatomy, pivots: Sequence[Pivot], batch_size: int = 32) -> Tensor:
    """The logit gap of each pivot in the model as it is, (P,), in float32 or wider."""
    forward = PivotForward(model, anatomy, pivots, batch_size)
    dtype = wide_dtype(model.dtype)
    gaps = torch.zeros(len(pivots), dtype=dtype, device=model.device)
    factors = torch.ones(anatomy.size, dtype=dtype, device=model.device)
    for batch in range(forward.batches):
        gaps[forward.rows(batch)] = forward.gaps(batch, factors)
    return gaps


class Trained(Protocol):
    """Tensors in training (`TrainableRows`, adapters): while `active`, the model computes with them."""

    @property
    def leaves(self) -> Sequence[Tensor]:
        """The tensors that collect gradients."""
        ...

    def active(self) -> AbstractContextManager[None]: ...


AddGradient = Callable[[Trained], tuple[float, float]]
"""Adds the gradient of an objective to the leaves of what is trained; returns (objective, mean logit gap)."""


def add_pivot_gradient(
    model: PreTrainedModel,
    anatomy: Anatomy,
    trained: Trained,
    pivots: Sequence[Pivot],
    objective: Objective,
    batch_size: int,
    checkpointing: bool = False,
) -> tuple[float, float]:
    """Add the gradient of the mean objective (paper, section 3.3) to the leaves of ``trained``.

    Returns (mean objective, mean logit gap). batch_size: pivots per forward and backward pass. checkpointing: keep no
    activations inside layers, at the cost of a second forward pass of each. Raises CcaError where the model cannot be
    checkpointed.
    """
    tokens = [pivot.tokens for pivot in pivots]
    shared_length = common_prefix(tokens)
    shared_length = shared_length if shared_length >= MIN_SHARED else 0
    loss_sum = gap_sum = 0.0
    context = checkpointed(model, anatomy) if checkpointing else nullcontext()
    with distributed.summed_gradients(trained.leaves), context, trained.active():
        graph = prefill(model, anatomy, tokens[0][:shared_length], with_grad=True) if shared_length else None
        shared = _as_leaves(graph) if graph else None
        lengths = [len(row) - shared_length for row in tokens]
        size = distributed.even_batch_size(len(tokens), batch_size)
        batches = buckets(lengths, size, most_tokens(model, max(map(len, tokens)) if shared_length else 0))
        for number, counts in distributed.my_share(len(batches)):
            batch = batches[number]
            own, lengths = padded([tokens[row][shared_length:] for row in batch], model.device)
            logits = logits_at(model, anatomy, own, lengths, shared=shared)
            pairs = torch.tensor([(pivots[row].desired, pivots[row].undesired) for row in batch], device=logits.device)
            gaps = logit_gaps(logits, *pairs.T)
            loss = counts * objective(gaps, logits, batch).sum() / len(pivots)
            loss.backward()
            loss_sum += float(loss.detach())
            gap_sum += counts * float(gaps.detach().sum())
        if graph and shared:
            _through_prefix(graph, shared)
    loss_sum, gap_sum = distributed.all_reduce_sums(loss_sum, gap_sum)
    return loss_sum, gap_sum / len(pivots)


def _as_leaves(prefix: SharedPrefix) -> SharedPrefix:
    """The same keys and values detached from their graph, collecting their own gradients."""
    keys, values = (
        tuple(x.detach().requires_grad_(x.requires_grad) for x in side) for side in (prefix.keys, prefix.values)
    )
    return SharedPrefix(keys, values, prefix.length)


def _through_prefix(graph: SharedPrefix, leaves: SharedPrefix) -> None:
    """Propagate the gradients of the leaves back through the prefix's own forward pass."""
    pairs = zip((*graph.keys, *graph.values), (*leaves.keys, *leaves.values), strict=True)
    reached = [(ours, leaf.grad) for ours, leaf in pairs if leaf.grad is not None]
    if reached:
        torch.autograd.backward([ours for ours, _ in reached], [grad for _, grad in reached])


@contextmanager
def checkpointed(model: PreTrainedModel, anatomy: Anatomy) -> Iterator[None]:
    """Within the block activations inside layers are computed again in the backward pass instead of being kept.

    transformers checkpoints a layer only in training mode, which would also switch its dropout on. Here a layer is in
    training mode just until its checkpoint is entered, so the forward pass stays that of ``model.eval()``. Run backward
    passes inside the block too. Raises CcaError for a model that transformers cannot checkpoint, or whose attention
    reads prefixes from a cache.
    """
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not anatomy.interface or not layers or not model.supports_gradient_checkpointing:
        raise CcaError(
            f"{anatomy.model_type}: expected an architecture that can be checkpointed next to prefixes, "
            "got one that cannot; set gradient_checkpointing to false"
        )
    with ExitStack() as stack:
        if not model.is_gradient_checkpointing:
            stack.callback(model.gradient_checkpointing_disable)
            model.gradient_checkpointing_enable({"use_reentrant": False})
            model.disable_input_require_grads()  # or gradients would flow below the lowest layer that trains
        for module in (model, *layers):
            stack.callback(setattr, module, "training", module.training)
            module.training = True
        for layer in layers:
            stack.callback(layer.register_forward_pre_hook(_to_eval, prepend=True).remove)
            stack.callback(layer.register_forward_hook(_to_train, always_call=True).remove)
        yield


def _to_eval(layer: nn.Module, _: object) -> None:
    layer.training = False


def _to_train(layer: nn.Module, _args: object, _out: object) -> None:
    layer.training = True


class KLAnchor:
    """Remembers the model's predictions on ``texts`` as it is now. Raises CcaError without texts."""

    def __init__(self, model: PreTrainedModel, texts: Sequence[Text], weight: float, batch_size: int = 16) -> None:
        texts = usable_texts(texts, "amplify.anchor")
        self.model, self.weight = model, weight
        batches = buckets([len(prompt) + len(solution) for prompt, solution in texts], batch_size, most_tokens(model))
        self.tokens = sum(len(solution) for _, solution in texts)
        self._batches = []
        """(texts, the log-probabilities of their solutions as they were, counts), for this process's share."""
        for number, counts in distributed.my_share(len(batches)):
            batch = [texts[row] for row in batches[number]]
            with torch.no_grad():
                self._batches.append((batch, solution_log_probabilities(model, batch), counts))

    def add_gradient(self, trained: Trained) -> float:
        """Add the gradient of weight * KL; returns weight * KL, in nats."""
        total = 0.0
        with distributed.summed_gradients(trained.leaves), trained.active():
            for batch, base, counts in self._batches:
                now = solution_log_probabilities(self.model, batch)
                kl = functional.kl_div(now, base, reduction="sum", log_target=True)
                loss = counts * self.weight * kl / self.tokens
                loss.backward()
                total += float(loss.detach())
        return distributed.all_reduce_sums(total)[0]
