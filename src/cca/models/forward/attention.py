"""The attention function that a model runs through while it is gated or reads the KV of a prefix.

It is registered with transformers' AttentionInterface, which hands over q, k and v per head, after q/k norm
and rotary embedding and before grouped-query heads are repeated. Notable decisions:

* One registered name per implementation it stands on (``cca_sdpa``, ``cca_eager``, ...): without a prefix the
  call goes on to that implementation with its own mask, so a neutral gate leaves logits equal to the bit.
* With a prefix the mask shrinks to a `Window` and `prefix_attention` computes everything; no Cache objects.
* What to do is in `AttentionHooks`, which each attention module refers to; `attention_hooks` puts them in place.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from cca.errors import CcaError
from cca.models.forward.prefix_state import Prefixes

WITH_PREFIX = "cca_prefix"
HOOKS = "_cca_hooks"


class Window(NamedTuple):
    """A mask next to a prefix: keys less than ``size`` back may be seen; None: all."""

    size: int | None


class Gates(Protocol):
    """Scales what attention reads: q (B, H, T, D), k and v (B, KV, T, D) of layer ``layer``."""

    def scale(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]: ...

    def starts(self, rows: int, width: int, device: torch.device) -> None: ...


@dataclass(eq=False)
class AttentionHooks:
    """Additional work of a model's attention: gates, prefixes, capturing."""

    bases: dict[int, str]
    """The attention implementation that the model had, by layer."""
    gates: Gates | None = None
    prefixes: Prefixes | None = None
    captured: dict[int, tuple[Tensor, Tensor]] | None = None
    """k and v (B, KV, T, D) of the last forward pass by layer; None when they are not captured."""


@functools.cache
def name_on(base: str) -> str:
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
    attention_mask: Tensor | None = None,  # some models pass it by this name
    *args: Any,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Gate and capture, then attend as the model would have."""
    found: tuple[AttentionHooks, int] | None = module.__dict__.get(HOOKS)
    if found is not None:
        hooks, layer = found
        q, k, v = _gate_and_capture(hooks, layer, q, k, v)
    config: Any = module.config
    ours = config._attn_implementation
    config._attn_implementation = base  # flash attention looks its own name up
    try:
        return _implementation(type(module), base)(module, q, k, v, attention_mask, *args, **kwargs)
    finally:
        config._attn_implementation = ours


def _attend_with_prefix(
    module: nn.Module,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attention_mask: Window | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Gate and capture, then attend to the prefixes too; ``s_aux`` are attention sinks."""
    kind = type(module).__name__
    if not isinstance(attention_mask, Window):
        raise CcaError(f"{kind}: expected attention masks made by transformers, got the model's own")
    if dropout:
        raise CcaError(f"{kind}: expected no dropout next to prefixes, got {dropout}; call model.eval()")
    hooks, layer = module.__dict__[HOOKS]
    q, k, v = _gate_and_capture(hooks, layer, q, k, v)
    # transformers' sdpa function ignores the soft cap, and a prefix must not change what the model computes
    softcap = None if hooks.bases[layer] == "sdpa" else softcap
    scaling = q.shape[-1] ** -0.5 if scaling is None else scaling
    options = {"scaling": scaling, "softcap": softcap, "sinks": s_aux}
    return hooks.prefixes.attend(layer, q, k, v, attention_mask.size, **options), None


def _gate_and_capture(
    hooks: AttentionHooks, layer: int, q: Tensor, k: Tensor, v: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    if hooks.gates is not None:
        q, k, v = hooks.gates.scale(layer, q, k, v)
    if hooks.captured is not None:
        hooks.captured[layer] = (k, v)
    return q, k, v


def _window(local_size: int | None = None, use_vmap: bool = False, config: Any = None, **_: Any) -> Window:
    """Stands in for transformers' mask functions next to a prefix; it calls them by keyword."""
    if use_vmap or getattr(config, "attention_chunk_size", None) is not None:
        kind = getattr(config, "model_type", "model")
        raise CcaError(
            f"{kind}: expected causal or sliding-window attention next to prefixes, got another kind"
        )
    return Window(local_size)


@functools.cache
def _implementation(kind: type[nn.Module], base: str) -> Callable[..., tuple[Tensor, Tensor | None]]:
    """The attention function ``base`` as the modeling code of ``kind`` would look it up."""
    names = inspect.unwrap(kind.forward).__globals__
    return names["ALL_ATTENTION_FUNCTIONS"].get_interface(base, names.get("eager_attention_forward"))


AttentionInterface.register(WITH_PREFIX, _attend_with_prefix)
AttentionMaskInterface.register(WITH_PREFIX, _window)
