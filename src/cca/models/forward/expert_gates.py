"""Gates of routed neurons: the change in a mixture of experts when neurons are scaled at some tokens.

The experts' own forward pass is left as it is, whichever kernel runs it. Its output is linear in the neurons,
so the effect of factors f at a token is a correction: the sum over its experts e, of weight w_e, of
w_e * down_e((f_e - 1) * neurons_e). Neutral gates correct by exactly zero; a token's factors act only in the
experts its route reaches.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from cca.errors import CcaError


def routed_correction(
    experts: Any,
    args: tuple,
    kwargs: dict[str, Any],
    factors: Tensor,
    at: tuple[Tensor, Tensor] | None,
    shape: tuple[int, int],
) -> Tensor:
    """The correction to the output of ``experts``, called with ``args`` and ``kwargs``; (B * T, C), like it.

    experts: a module that follows transformers' ExpertsInterface.
    factors: (n,) or (B, n) of the routed neurons, expert by expert.
    at: the gated (rows, positions), None for all; shape: (B, T) of the forward pass under way.
    """
    x, chosen, weights = routing(experts, args, kwargs)
    B, T = shape
    if at is None:
        tokens = torch.arange(B * T, device=x.device)
        row = tokens // T
    else:
        row = at[0].to(x.device)
        tokens = row * T + at[1].to(x.device)
    E = experts.down_proj.shape[0]
    by_expert = factors.to(x.device).view(-1, E, factors.shape[-1] // E)  # (B or 1, E, N)
    out = torch.zeros_like(x)
    for e in chosen[tokens].unique().tolist():
        which, slot = torch.where(chosen[tokens] == e)
        here = tokens[which]
        neurons = activated(experts, inner(experts, x[here], e))  # (n, N)
        factor = by_expert[row[which] if len(by_expert) > 1 else 0, e]
        change = linear(experts, (neurons * (factor - 1)).to(x.dtype), experts.down_proj[e])
        out = out.index_add(0, here, (change * weights[here, slot, None]).to(x.dtype))
    return out


def routing(experts: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """The arguments of ``experts``: the tokens (N, C), the experts chosen for each and their weights (N, K).

    Raises CcaError for experts that are called with others.
    """
    given = inspect.signature(experts.forward).bind(*args, **kwargs).arguments
    if len(given) != 3:
        raise CcaError(
            f"{type(experts).__name__}: expected experts that are called with tokens, choices and weights, got "
            f"{', '.join(given)}; this mixture of experts cannot be gated"
        )
    x, chosen, weights = given.values()
    return x, chosen, weights


def inner(experts: Any, x: Tensor, e: int) -> Tensor:
    """The output of expert ``e`` for the tokens x (n, C) before its activation: (n, N), or (n, 2 N) with gates."""
    name = "gate_up_proj" if experts.has_gate else "up_proj"
    out = linear(experts, x, getattr(experts, name)[e])
    return out + getattr(experts, f"{name}_bias")[e] if experts.has_bias else out


def activated(experts: Any, inner: Tensor) -> Tensor:
    """The neurons (n, N) after activation, from `inner`."""
    return experts._apply_gate(inner) if experts.has_gate else experts.act_fn(inner)


def linear(experts: Any, x: Tensor, weight: Tensor) -> Tensor:
    """x (n, inputs) times one expert's weight, (n, outputs)."""
    return x @ weight if experts.is_transposed else x @ weight.T
