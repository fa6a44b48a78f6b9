"""Gradient checkpointing for a while: activations inside a layer are computed again in the backward pass, not kept.

transformers checkpoints a layer only in training mode, which would also switch its dropout on. Here a layer is in
training mode just until its checkpoint is entered, so the forward pass stays the one of ``model.eval()``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from cca.errors import CcaError
from cca.models.anatomy.anatomy import Anatomy


@contextmanager
def checkpointed(model: PreTrainedModel, anatomy: Anatomy) -> Iterator[None]:
    """Within the block every layer of ``model`` is checkpointed; run backward passes inside the block too.

    Raises CcaError for a model that transformers cannot checkpoint, or whose attention reads prefixes from a cache.
    """
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    cached = not all(parts.interface for parts in anatomy.layers if parts.attention is not None)
    if cached or not layers or not model.supports_gradient_checkpointing:
        raise CcaError(
            f"{anatomy.model_type}: expected an architecture that can be checkpointed beside prefixes, "
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
            stack.callback(layer.register_forward_pre_hook(_sober, prepend=True).remove)
            stack.callback(layer.register_forward_hook(_eager, always_call=True).remove)
        yield


def _sober(layer: nn.Module, _: object) -> None:
    layer.training = False


def _eager(layer: nn.Module, _args: object, _out: object) -> None:
    layer.training = True
