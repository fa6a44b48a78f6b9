"""Gates and prefixes put in place on a model, and taken away again, also after an exception.

`AttentionHooks` hold what attention does in addition. `hooked_attention` shows them to every attention module that goes
through AttentionInterface and gives the model's config the name of our attention function. Modules that bypass the
interface (Falcon, GPT-J, BLOOM, ...) are left alone: their projections are gated, and they read prefixes from a cache.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from cca.errors import CcaError
from cca.models.anatomy.anatomy import Anatomy
from cca.models.forward.attention import HOOKS, WITH_PREFIX, AttentionHooks, Gates, name_on
from cca.models.forward.prefix_state import DirectPrefixes, Prefixes

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
                raise CcaError(
                    f"model: expected one block of {name} at a time, got a second inside the first"
                )
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
        stack.callback(
            leave if former is None else functools.partial(module.__dict__.__setitem__, HOOKS, former)
        )
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


def _remember_in_checkpoints(
    model: PreTrainedModel, modules: Modules, hooks: AttentionHooks, stack: ExitStack
) -> None:
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
