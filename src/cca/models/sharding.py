"""A model whose weights are spread over the processes of a run (FSDP2), as it is larger than one device.

Each process keeps its part of every weight along the first axis and gathers a layer's weights while that layer
computes. So every forward and backward pass is one that all processes make, and reading rows of a weight is too.

1. The first process reads the weights; the others make a model without any.
2. Layer by layer all get the whole weights from the first and keep their part: no process but the first ever holds
   more than one layer whole, in main memory or on its device.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import GenerationConfig, PreTrainedModel

from cca import distributed
from cca.errors import CcaError
from cca.models.anatomy.anatomy import anatomy_of
from cca.models.anatomy.weight_rows import in_shards


def load_sharded(
    read: Callable[[], PreTrainedModel],
    bare: Callable[[torch.dtype], PreTrainedModel],
    fingerprint_of: Callable[[PreTrainedModel], str],
) -> tuple[PreTrainedModel, str]:
    """The model that the first process reads, spread over all, and its fingerprint, taken before it is spread.

    ``bare`` makes the same model with weights of no value.
    """
    model, facts = None, b""
    if distributed.is_main():
        model = read().requires_grad_(False)
        generation = model.generation_config.to_dict() if model.generation_config else None
        dtype = str(model.dtype).removeprefix("torch.")
        facts = json.dumps([fingerprint_of(model), dtype, generation]).encode()
    fingerprint, dtype, generation = json.loads(distributed.broadcast_bytes(facts))
    if model is None:
        with torch.device("meta"):
            model = bare(getattr(torch, dtype)).requires_grad_(False)
        if generation is not None:
            model.generation_config = GenerationConfig.from_dict(generation)
    return shard(model.eval()), fingerprint


def shard(model: PreTrainedModel) -> PreTrainedModel:
    """Spread the weights of the first process's model over all; the others' need not have any (device meta).

    Weights end up on the process's GPU where processes have GPUs. Raises CcaError for a model that cannot be spread.
    """
    if distributed.size() == 1:
        raise CcaError("sharding fsdp: expected several processes, got one; start with accelerate launch")
    device = torch.device(distributed.device_map() or "cpu")
    mesh = init_device_mesh(device.type, (distributed.size(),))
    if len({parameter.dtype for parameter in model.parameters()}) > 1:
        raise CcaError("sharding fsdp: expected weights of one dtype, got several; set dtype")
    for layer in anatomy_of(model).layers:
        module = model.get_submodule(layer.module)
        _deliver(module, device)
        fully_shard(module, mesh=mesh)
    _deliver(model, device)
    fully_shard(model, mesh=mesh)
    left = [name for name, tensor in _loose(model) if tensor.is_meta]
    if left:
        raise CcaError(f"sharding fsdp: {type(model).__name__} keeps {left[0]} outside of its weights and buffers")
    return model


def _deliver(module: nn.Module, device: torch.device) -> None:
    """Put whole weights and buffers, those of the first process, into what is not sharded yet."""
    # by identity, which lasts as long as the former is kept
    made: dict[int, tuple[nn.Parameter, nn.Parameter]] = {}
    for owner in module.modules():
        for name, parameter in owner._parameters.items():
            if parameter is None or in_shards(parameter):
                continue
            if id(parameter) not in made:  # tied weights stay one
                value = _from_first(parameter.detach(), device)
                made[id(parameter)] = parameter, nn.Parameter(value, requires_grad=False)
            owner._parameters[name] = made[id(parameter)][1]
        for name, buffer in owner._buffers.items():
            if buffer is not None:
                owner._buffers[name] = _from_first(buffer, device)


def _from_first(tensor: Tensor, device: torch.device) -> Tensor:
    value = tensor.to(device) if distributed.is_main() else torch.empty_like(tensor, device=device)
    value = value.contiguous()
    distributed.broadcast_(value)
    return value


def _loose(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Tensors that modules keep as plain attributes."""
    for name, module in model.named_modules():
        attributes: dict[str, Any] = module.__dict__
        for key, value in attributes.items():
            if isinstance(value, Tensor):
                yield f"{name}.{key}", value
