"""The attention function of ours that a model runs through while it is gated, or reads the KV of a prefix.

It is registered with transformers' AttentionInterface, which hands over q, k and v per head, after q/k norm and
rotary embedding and before grouped-query heads are repeated. Notable decisions:

* One registered name per implementation it stands on (``cca_sdpa``, ``cca_eager``, ...): without a prefix the call
  goes on to that implementation with its own mask, so a neutral gate leaves the logits equal to the bit.
* With a prefix the mask shrinks to a `Window` and `prefix_attention` computes all of it; no Cache objects.
* What to do is a `Route` on the model, and each attention module knows its seat in it. Routes are put in place by
  `routed` and taken away when the last context leaves, also after an exception.
* Modules that bypass the interface (Falcon, GPT-J, BLOOM, ...) are left alone: gates go to their projections, which
  is exact as they have no q/k norm, and prefixes through the cache that transformers itself would use.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from cca.errors import CcaError
from cca.models.anatomy import Anatomy
from cca.models.prefix_state import DirectPrefixes, Prefixes

WITH_PREFIX = "cca_prefix"
_ROUTE = "_cca_route"
_SEAT = "_cca_seat"


class Window(NamedTuple):
    """What is left of a mask when a prefix is attended to: keys at most ``size - 1`` back, None for no limit."""

    size: int | None


class Gates(Protocol):
    """Scales what attention reads: q (B, H, T, D), k and v (B, KV, T, D) of layer ``layer``."""

    def scale(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]: ...

    def starts(self, rows: int, width: int, device: torch.device) -> None: ...


@dataclass(eq=False)
class Route:
    """What the attention of one model is to do beside its own work."""

    gates: Gates | None = None
    prefixes: Prefixes | None = None
    captured: dict[int, tuple[Tensor, Tensor]] | None = None  # layer -> k, v (B, KV, T, D)
    bases: dict[int, str] = field(default_factory=dict)  # layer -> implementation underneath

    @property
    def idle(self) -> bool:
        return self.gates is None and self.prefixes is None and self.captured is None


def active_route(model: PreTrainedModel) -> Route | None:
    """The route in place on ``model``, or None."""
    return model.__dict__.get(_ROUTE)


@contextmanager
def routed(
    model: PreTrainedModel,
    anatomy: Anatomy,
    *,
    gates: Gates | None = None,
    prefixes: Prefixes | None = None,
    capture: bool = False,
) -> Iterator[Route]:
    """Add these parts to the model's route for the duration of the block.

    Contexts of different parts may be nested in any order; a second one of the same part raises CcaError.
    With gradient checkpointing the backward pass must run inside the block, as it calls attention again.
    """
    route = active_route(model)
    if route is not None:
        for what, new, old in (("gates", gates, route.gates), ("prefixes", prefixes, route.prefixes)):
            if new is not None and old is not None:
                raise CcaError(
                    f"model: expected one block of {what} at a time, got a second; leave the first"
                )
        if capture and route.captured is not None:
            raise CcaError("model: expected one capture of keys and values at a time, got a second")
    seats = _attention_modules(model, anatomy)
    previous = {id(module): module.config._attn_implementation for module in seats.values()}
    first = route is None
    hook = None
    if route is None:
        route = Route(bases={layer: previous[id(module)] for layer, module in seats.items()})
        model.__dict__[_ROUTE] = route
        hook = model.base_model.register_forward_pre_hook(functools.partial(_starts, route), with_kwargs=True)
        for layer, module in seats.items():
            module.__dict__[_SEAT] = (route, layer)
    if gates is not None:
        route.gates = gates
    if prefixes is not None:
        route.prefixes = prefixes
    if capture:
        route.captured = {}
    try:
        for layer, module in seats.items():
            base = route.bases[layer]
            module.config._attn_implementation = WITH_PREFIX if route.prefixes else _name_on(base)
        yield route
    finally:
        for module in seats.values():
            module.config._attn_implementation = previous[id(module)]
        if gates is not None:
            route.gates = None
        if prefixes is not None:
            route.prefixes = None
        if capture:
            route.captured = None
        if first:
            assert hook is not None and route.idle, "contexts must be left in the reverse order of entering"
            hook.remove()
            del model.__dict__[_ROUTE]
            for module in seats.values():
                del module.__dict__[_SEAT]


def _attention_modules(model: PreTrainedModel, anatomy: Anatomy) -> dict[int, nn.Module]:
    """The attention modules that go through the interface, by layer."""
    return {
        layer: model.get_submodule(parts.attention)
        for layer, parts in enumerate(anatomy.layers)
        if parts.attention is not None and parts.interface
    }


def _starts(route: Route, _: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """Before each forward pass of the body: tell the parts its shape, and put prefixes in place."""
    tokens = args[0] if args else kwargs.get("input_ids")
    if tokens is None:
        tokens = kwargs["inputs_embeds"]
    rows, width = tokens.shape[:2]
    if route.gates is not None:
        route.gates.starts(rows, width, tokens.device)
    if route.prefixes is not None:
        if kwargs.get("past_key_values") is not None or kwargs.get("attention_mask") is not None:
            raise CcaError(
                "model: expected only new tokens while prefixes are in place, got a cache or a mask too"
            )
        kwargs = {**kwargs, **route.prefixes.arguments(rows, width, tokens.device)}
    return args, kwargs


@functools.cache
def _name_on(base: str) -> str:
    """The name of our function standing on ``base``, registered on first use."""
    name = f"cca_{base}"
    AttentionInterface.register(name, functools.partial(_attend, base))
    mask = ALL_MASK_ATTENTION_FUNCTIONS.get(base)
    if mask is not None:
        AttentionMaskInterface.register(name, mask)
    return name


def _attend(
    base: str,
    module: nn.Module,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    *args: Any,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Gate and capture, then attend as the model would have."""
    seat = module.__dict__.get(_SEAT)
    if seat is not None:
        q, k, v = _gate_and_capture(*seat, q, k, v)
    return _implementation(type(module), base)(module, q, k, v, mask, *args, **kwargs)


def _attend_with_prefix(
    module: nn.Module,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Window,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    route, layer = module.__dict__[_SEAT]
    if not isinstance(mask, Window):
        raise CcaError(
            f"{type(module).__name__}: expected a model whose masks come from transformers, got its own"
        )
    q, k, v = _gate_and_capture(route, layer, q, k, v)
    if dropout:
        raise CcaError("model: expected no attention dropout while prefixes are in place; call model.eval()")
    # transformers' sdpa function ignores the soft cap; a prefix must not change what the loaded model computes
    softcap = None if route.bases[layer] == "sdpa" else softcap
    scaling = q.shape[-1] ** -0.5 if scaling is None else scaling
    return route.prefixes.attend(
        layer, q, k, v, mask.size, scaling=scaling, softcap=softcap, sinks=s_aux
    ), None


def _gate_and_capture(
    route: Route, layer: int, q: Tensor, k: Tensor, v: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    if route.gates is not None:
        q, k, v = route.gates.scale(layer, q, k, v)
    if route.captured is not None:
        route.captured[layer] = (k, v)
    return q, k, v


def _window(
    *args: Any, local_size: int | None = None, use_vmap: bool = False, config: Any = None, **_: Any
) -> Window:
    """Stands in for transformers' mask functions while a prefix is attended to."""
    if use_vmap or getattr(config, "attention_chunk_size", None) is not None:
        raise CcaError(
            f"{getattr(config, 'model_type', 'model')}: expected causal or sliding-window attention, "
            "got another pattern; prefixes cannot be shared on it"
        )
    return Window(local_size)


@functools.cache
def _implementation(kind: type[nn.Module], base: str) -> Callable[..., tuple[Tensor, Tensor | None]]:
    """The attention function ``base`` as the modeling code of ``kind`` would look it up."""
    names = inspect.unwrap(kind.forward).__globals__
    return names["ALL_ATTENTION_FUNCTIONS"].get_interface(base, names.get("eager_attention_forward"))


AttentionInterface.register(WITH_PREFIX, _attend_with_prefix)
AttentionMaskInterface.register(WITH_PREFIX, _window)
