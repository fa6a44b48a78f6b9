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
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from cca.errors import CcaError
from cca.models.anatomy.anatomy import Anatomy
from cca.models.forward.prefix_state import DirectPrefixes, Prefixes

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
        raise CcaError(f"{kind}: expected causal or sliding-window attention next to prefixes, got another kind")
    return Window(local_size)


@functools.cache
def _implementation(kind: type[nn.Module], base: str) -> Callable[..., tuple[Tensor, Tensor | None]]:
    """The attention function ``base`` as the modeling code of ``kind`` would look it up."""
    names = inspect.unwrap(kind.forward).__globals__
    return names["ALL_ATTENTION_FUNCTIONS"].get_interface(base, names.get("eager_attention_forward"))


AttentionInterface.register(WITH_PREFIX, _attend_with_prefix)
AttentionMaskInterface.register(WITH_PREFIX, _window)


_ON_MODEL = "_cca_attention_hooks"
Modules = dict[int, nn.Module]
"""Attention modules by layer."""


@contextmanager
def hooked_attention(
    model: PreTrainedModel,
    anatomy: Anatomy,
    *,
    gates: Gates | None = None,
    prefixes: Prefixes | None = None,
    capture: bool = False,
) -> Iterator[AttentionHooks]:
    """Add these parts to the model's attention hooks for the duration of the block.

    Contexts of different parts may be nested in any order; a second one of the same part raises CcaError.
    With gradient checkpointing, layers are run again as they were, wherever the backward pass runs.
    """
    parts = {"gates": gates, "prefixes": prefixes, "captured": {} if capture else None}
    modules = _attention_modules(model, anatomy)
    with ExitStack() as stack:
        hooks = model.__dict__.get(_ON_MODEL) or _attach(model, modules, stack)
        for name, part in parts.items():
            if part is None:
                continue
            if getattr(hooks, name) is not None:
                raise CcaError(f"model: expected one block of {name} at a time, got a second inside the first")
            setattr(hooks, name, part)
            stack.callback(setattr, hooks, name, None)
        _rename(modules, hooks, stack)
        yield hooks


def _attach(model: PreTrainedModel, modules: Modules, stack: ExitStack) -> AttentionHooks:
    """New hooks in place on the model until ``stack`` is left."""
    configs: dict[int, Any] = {layer: module.config for layer, module in modules.items()}
    hooks = AttentionHooks({layer: config._attn_implementation for layer, config in configs.items()})
    model.__dict__[_ON_MODEL] = hooks
    stack.callback(model.__dict__.pop, _ON_MODEL)
    hook = model.register_forward_pre_hook(functools.partial(_starts, hooks), with_kwargs=True)
    stack.callback(hook.remove)
    _show(modules, hooks, stack)
    if model.training and model.is_gradient_checkpointing:
        _remember_in_checkpoints(model, modules, hooks, stack)
    return hooks


def _show(modules: Modules, hooks: AttentionHooks, stack: ExitStack) -> None:
    """Show attention modules their hooks, and the former ones when ``stack`` is left."""
    for layer, module in modules.items():
        former = module.__dict__.get(HOOKS)
        leave = functools.partial(module.__dict__.pop, HOOKS)
        stack.callback(leave if former is None else functools.partial(module.__dict__.__setitem__, HOOKS, former))
        module.__dict__[HOOKS] = (hooks, layer)


def _rename(modules: Modules, hooks: AttentionHooks, stack: ExitStack) -> None:
    """Give configs the name of the attention function that does what ``hooks`` ask for."""
    direct = isinstance(hooks.prefixes, DirectPrefixes)
    for layer, module in modules.items():
        config: Any = module.config
        former, name = config._attn_implementation, WITH_PREFIX if direct else name_on(hooks.bases[layer])
        if name != former:  # layers mostly share one config
            stack.callback(setattr, config, "_attn_implementation", former)
            config._attn_implementation = name


def _remember_in_checkpoints(model: PreTrainedModel, modules: Modules, hooks: AttentionHooks, stack: ExitStack) -> None:
    """Have checkpointed layers run again under the prefixes they first ran with, until ``stack`` is left."""

    def contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
        return nullcontext(), _as_it_was(modules, AttentionHooks(hooks.bases, prefixes=hooks.prefixes))

    for module in model.modules():
        usual = module.__dict__.get("_gradient_checkpointing_func")
        if usual is not None:
            stack.callback(module.__dict__.__setitem__, "_gradient_checkpointing_func", usual)
            ours = functools.partial(checkpoint, use_reentrant=False, context_fn=contexts)
            module.__dict__["_gradient_checkpointing_func"] = ours


@contextmanager
def _as_it_was(modules: Modules, hooks: AttentionHooks) -> Iterator[None]:
    with ExitStack() as stack:
        _show(modules, hooks, stack)
        _rename(modules, hooks, stack)
        yield


def _attention_modules(model: PreTrainedModel, anatomy: Anatomy) -> Modules:
    """The attention modules that go through the interface, by layer."""
    return {
        layer: model.get_submodule(parts.attention)
        for layer, parts in enumerate(anatomy.layers)
        if parts.attention is not None and parts.interface
    }


def _starts(
    hooks: AttentionHooks, model: PreTrainedModel, args: tuple, kwargs: dict[str, Any]
) -> tuple[tuple, dict[str, Any]]:
    """Before each forward pass: give its shape to the gates and its prefixes to the model."""
    if hooks.gates is not None and model.training and model.is_gradient_checkpointing:
        raise CcaError("gates: expected no gradient checkpointing, got it; call model.eval()")
    given = args[0] if args else kwargs.get("input_ids")
    tokens: Tensor = kwargs["inputs_embeds"] if given is None else given
    rows, width = tokens.shape[:2]
    if hooks.gates is not None:
        hooks.gates.starts(rows, width, tokens.device)
    if hooks.prefixes is not None:
        more = [name for name in ("past_key_values", "attention_mask") if kwargs.get(name) is not None]
        if more:
            raise CcaError(f"model: expected only new tokens next to prefixes, got {' and '.join(more)} too")
        kwargs = {**kwargs, **hooks.prefixes.arguments(rows, width, tokens.device)}
    return args, kwargs
