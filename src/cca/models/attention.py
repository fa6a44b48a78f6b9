"""The attention function that a model runs through while it is gated or reads the KV of a prefix.

It is registered with transformers' AttentionInterface, which hands over q, k and v per head, after q/k norm
and rotary embedding and before grouped-query heads are repeated. Notable decisions:

* One registered name per implementation it stands on (``cca_sdpa``, ``cca_eager``, ...): without a prefix the
  call goes on to that implementation with its own mask, so a neutral gate leaves logits equal to the bit.
* With a prefix the mask shrinks to a `Window` and `prefix_attention` computes everything; no Cache objects.
* What to do is a `Route` on the model, and each attention module knows its seat in it. `routed` puts them in
  place and takes them away with the last context, also after an exception.
* Modules that bypass the interface (Falcon, GPT-J, BLOOM, ...) are left alone: gates go to their projections,
  and prefixes through the cache they read themselves.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
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
    """What is left of a mask beside a prefix: keys less than ``size`` back may be seen; None: all."""

    size: int | None


class Gates(Protocol):
    """Scales what attention reads: q (B, H, T, D), k and v (B, KV, T, D) of layer ``layer``."""

    def scale(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]: ...

    def starts(self, rows: int, width: int, device: torch.device) -> None: ...


@dataclass(eq=False)
class Route:
    """What the attention of one model is to do beside its own work."""

    bases: dict[int, str]
    """By layer, the attention implementation the model had."""
    gates: Gates | None = None
    prefixes: Prefixes | None = None
    captured: dict[int, tuple[Tensor, Tensor]] | None = None
    """By layer, k and v (B, KV, T, D) of the last forward pass, when wanted."""


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
    parts = {"gates": gates, "prefixes": prefixes, "captured": {} if capture else None}
    seats = _attention_modules(model, anatomy)
    with ExitStack() as stack:
        route = model.__dict__.get(_ROUTE) or _seated(model, seats, stack)
        for name, part in parts.items():
            if part is None:
                continue
            if getattr(route, name) is not None:
                raise CcaError(
                    f"model: expected one block of {name} at a time, got a second inside the first"
                )
            setattr(route, name, part)
            stack.callback(setattr, route, name, None)
        direct = isinstance(route.prefixes, DirectPrefixes)
        for layer, module in seats.items():
            config: Any = module.config
            stack.callback(setattr, config, "_attn_implementation", config._attn_implementation)
            config._attn_implementation = WITH_PREFIX if direct else _name_on(route.bases[layer])
        yield route


def _seated(model: PreTrainedModel, seats: dict[int, nn.Module], stack: ExitStack) -> Route:
    """A new route in place on the model and its attention modules until ``stack`` is left."""
    bases: dict[int, Any] = {layer: module.config for layer, module in seats.items()}
    route = Route({layer: config._attn_implementation for layer, config in bases.items()})
    hook = model.register_forward_pre_hook(functools.partial(_starts, route), with_kwargs=True)
    stack.callback(hook.remove)
    model.__dict__[_ROUTE] = route
    stack.callback(model.__dict__.pop, _ROUTE)
    for layer, module in seats.items():
        module.__dict__[_SEAT] = (route, layer)
        stack.callback(module.__dict__.pop, _SEAT)
    return route


def _attention_modules(model: PreTrainedModel, anatomy: Anatomy) -> dict[int, nn.Module]:
    """The attention modules that go through the interface, by layer."""
    return {
        layer: model.get_submodule(parts.attention)
        for layer, parts in enumerate(anatomy.layers)
        if parts.attention is not None and parts.interface
    }


def _starts(route: Route, _: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """Before each forward pass: tell the parts its shape, and put prefixes in place."""
    tokens = args[0] if args else kwargs.get("input_ids")
    if tokens is None:
        tokens = kwargs["inputs_embeds"]
    rows, width = tokens.shape[:2]
    if route.gates is not None:
        route.gates.starts(rows, width, tokens.device)
    if route.prefixes is not None:
        given = [name for name in ("past_key_values", "attention_mask") if kwargs.get(name) is not None]
        if given:
            raise CcaError(f"model: expected only new tokens beside prefixes, got {' and '.join(given)} too")
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
    seat: tuple[Route, int] | None = module.__dict__.get(_SEAT)
    if seat is not None:
        route, layer = seat
        q, k, v = _gate_and_capture(route, layer, q, k, v)
    config: Any = module.config
    ours = config._attn_implementation
    config._attn_implementation = base  # flash attention looks its own name up
    try:
        return _implementation(type(module), base)(module, q, k, v, mask, *args, **kwargs)
    finally:
        config._attn_implementation = ours


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
    """Gate and capture, then attend to the prefixes as well; ``s_aux`` are attention sinks."""
    kind = type(module).__name__
    if not isinstance(mask, Window):
        raise CcaError(f"{kind}: expected attention masks made by transformers, got the model's own")
    if dropout:
        raise CcaError(f"{kind}: expected no dropout beside prefixes, got {dropout}; call model.eval()")
    route, layer = module.__dict__[_SEAT]
    q, k, v = _gate_and_capture(route, layer, q, k, v)
    # transformers' sdpa function ignores the soft cap, and a prefix must not change what the model computes
    softcap = None if route.bases[layer] == "sdpa" else softcap
    scaling = q.shape[-1] ** -0.5 if scaling is None else scaling
    options = {"scaling": scaling, "softcap": softcap, "sinks": s_aux}
    return route.prefixes.attend(layer, q, k, v, mask.size, **options), None


def _gate_and_capture(
    route: Route, layer: int, q: Tensor, k: Tensor, v: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    if route.gates is not None:
        q, k, v = route.gates.scale(layer, q, k, v)
    if route.captured is not None:
        route.captured[layer] = (k, v)
    return q, k, v


def _window(local_size: int | None = None, use_vmap: bool = False, config: Any = None, **_: Any) -> Window:
    """Stands in for transformers' mask functions beside a prefix; it calls them by keyword."""
    if use_vmap or getattr(config, "attention_chunk_size", None) is not None:
        kind = getattr(config, "model_type", "model")
        raise CcaError(
            f"{kind}: expected causal or sliding-window attention beside prefixes, got another kind"
        )
    return Window(local_size)


@functools.cache
def _implementation(kind: type[nn.Module], base: str) -> Callable[..., tuple[Tensor, Tensor | None]]:
    """The attention function ``base`` as the modeling code of ``kind`` would look it up."""
    names = inspect.unwrap(kind.forward).__globals__
    return names["ALL_ATTENTION_FUNCTIONS"].get_interface(base, names.get("eager_attention_forward"))


AttentionInterface.register(WITH_PREFIX, _attend_with_prefix)
AttentionMaskInterface.register(WITH_PREFIX, _window)
