"""Putting gates and prefixes in place on a model, and taking them away again, also after an exception.

A `Route` says what attention is to do; `routed` seats every attention module that goes through AttentionInterface
in it and gives the model's config the name of our attention function. Modules that bypass the interface (Falcon,
GPT-J, BLOOM, ...) are left alone: gates go to their projections, and prefixes through the cache they read.
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
from cca.models.forward.attention import SEAT, WITH_PREFIX, Gates, Route, name_on
from cca.models.forward.prefix_state import DirectPrefixes, Prefixes

_ROUTE = "_cca_route"
Seats = dict[int, nn.Module]


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
    With gradient checkpointing, layers are run again as they were, wherever the backward pass takes place.
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
        _name(seats, route, stack)
        yield route


def _seated(model: PreTrainedModel, seats: Seats, stack: ExitStack) -> Route:
    """A new route in place on the model until ``stack`` is left."""
    configs: dict[int, Any] = {layer: module.config for layer, module in seats.items()}
    route = Route({layer: config._attn_implementation for layer, config in configs.items()})
    model.__dict__[_ROUTE] = route
    stack.callback(model.__dict__.pop, _ROUTE)
    hook = model.register_forward_pre_hook(functools.partial(_starts, route), with_kwargs=True)
    stack.callback(hook.remove)
    _seat(seats, route, stack)
    if model.training and model.is_gradient_checkpointing:
        _remember_in_checkpoints(model, seats, route, stack)
    return route


def _seat(seats: Seats, route: Route, stack: ExitStack) -> None:
    """Show attention modules their route, and their former one when ``stack`` is left."""
    for layer, module in seats.items():
        former = module.__dict__.get(SEAT)
        leave = functools.partial(module.__dict__.pop, SEAT)
        stack.callback(
            leave if former is None else functools.partial(module.__dict__.__setitem__, SEAT, former)
        )
        module.__dict__[SEAT] = (route, layer)


def _name(seats: Seats, route: Route, stack: ExitStack) -> None:
    """Give configs the name of the attention function that does what ``route`` says."""
    direct = isinstance(route.prefixes, DirectPrefixes)
    for layer, module in seats.items():
        config: Any = module.config
        former, name = config._attn_implementation, WITH_PREFIX if direct else name_on(route.bases[layer])
        if name != former:  # layers mostly share one config
            stack.callback(setattr, config, "_attn_implementation", former)
            config._attn_implementation = name


def _remember_in_checkpoints(model: PreTrainedModel, seats: Seats, route: Route, stack: ExitStack) -> None:
    """Have checkpointed layers run again under the prefixes they first ran with, until ``stack`` is left."""

    def contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
        return nullcontext(), _as_it_was(seats, Route(route.bases, prefixes=route.prefixes))

    for module in model.modules():
        usual = module.__dict__.get("_gradient_checkpointing_func")
        if usual is not None:
            stack.callback(module.__dict__.__setitem__, "_gradient_checkpointing_func", usual)
            ours = functools.partial(checkpoint, use_reentrant=False, context_fn=contexts)
            module.__dict__["_gradient_checkpointing_func"] = ours


@contextmanager
def _as_it_was(seats: Seats, route: Route) -> Iterator[None]:
    with ExitStack() as stack:
        _seat(seats, route, stack)
        _name(seats, route, stack)
        yield


def _attention_modules(model: PreTrainedModel, anatomy: Anatomy) -> Seats:
    """The attention modules that go through the interface, by layer."""
    return {
        layer: model.get_submodule(parts.attention)
        for layer, parts in enumerate(anatomy.layers)
        if parts.attention is not None and parts.interface
    }


def _starts(
    route: Route, model: PreTrainedModel, args: tuple, kwargs: dict[str, Any]
) -> tuple[tuple, dict[str, Any]]:
    """Before each forward pass: tell the parts its shape, and put prefixes in place."""
    if route.gates is not None and model.training and model.is_gradient_checkpointing:
        raise CcaError("gates: expected no gradient checkpointing, got it; call model.eval()")
    given = args[0] if args else kwargs.get("input_ids")
    tokens: Tensor = kwargs["inputs_embeds"] if given is None else given
    rows, width = tokens.shape[:2]
    if route.gates is not None:
        route.gates.starts(rows, width, tokens.device)
    if route.prefixes is not None:
        more = [name for name in ("past_key_values", "attention_mask") if kwargs.get(name) is not None]
        if more:
            raise CcaError(f"model: expected only new tokens beside prefixes, got {' and '.join(more)} too")
        kwargs = {**kwargs, **route.prefixes.arguments(rows, width, tokens.device)}
    return args, kwargs
