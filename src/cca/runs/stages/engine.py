"""The engine of a run. ``auto`` chooses vLLM where it is installed and can serve the model on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import torch

from cca import distributed
from cca.engines.distributed import RankedEngine
from cca.engines.engine import Engine
from cca.engines.hf import HFEngine
from cca.engines.weight_sync import ModelSource, WeightWatch
from cca.errors import CcaError
from cca.models.loading import LoadedModel
from cca.runs.config import Config

ROOM = 2.5
"""Free memory that vLLM needs, in multiples of the model's weights: a copy, its cache, gradients."""


def make_engine(
    config: Config, loaded: LoadedModel, watch: WeightWatch, note: Callable[[str], None], say: Callable[[str], None]
) -> Engine:
    """The engine that ``config`` asks for. ``note`` is for what bears on results, ``say`` for the rest.

    Raises CcaError where it is not installed or cannot serve the model.
    """
    if distributed.size() > 1:
        return _engine_of_several(config, loaded, note)
    name = engine_name(config, loaded)
    if config.engine == "auto":
        objection = vllm_objection(loaded)
        say(f"engine: {name} (auto: {objection or 'vLLM is installed and there is a GPU with room for it'})")
    if name == "hf":
        return HFEngine(loaded.model, config.traces.batch_size, note)
    from cca.engines.vllm import VLLMEngine

    source = ModelSource.of(loaded, config.trust_remote_code)
    own = config.vllm
    if name == "vllm" or config.ray.engine == "vllm":
        note("text is generated with vLLM")
    if name == "vllm" and own.data_parallel == 1:
        return VLLMEngine(source, own, watch)
    from cca.engines.ray import RayEngine

    settings = config.ray
    if name == "vllm":
        gpus = float(own.tensor_parallel) if torch.cuda.is_available() else 0.0
        changes = {"address": None, "actors": own.data_parallel, "engine": "vllm", "gpus": gpus}
        settings = settings.model_copy(update=changes)
    if settings.engine == "vllm" and torch.cuda.is_available() and settings.gpus < own.tensor_parallel:
        raise CcaError(
            f"ray.gpus: expected at least vllm.tensor_parallel ({own.tensor_parallel}), got {settings.gpus:g}"
        )
    return RayEngine(source, settings, watch, note, config.traces.batch_size, own)


def _engine_of_several(config: Config, loaded: LoadedModel, note: Callable[[str], None]) -> Engine:
    """The engine of several processes: each decodes its share, or all the same batches where the model is sharded."""
    if config.engine not in ("auto", "hf"):
        raise CcaError(
            f"engine: {config.engine} runs beside one process, not under a launcher of several; set engine: hf"
        )
    kind = HFEngine if config.sharding == "fsdp" else RankedEngine
    return kind(loaded.model, config.traces.batch_size, note)


def engine_name(config: Config, loaded: LoadedModel) -> str:
    """The name of the engine, with ``auto`` resolved."""
    if config.engine != "auto":
        return config.engine
    return "hf" if vllm_objection(loaded) else "vllm"


def vllm_objection(loaded: LoadedModel) -> str | None:
    """The reason why ``auto`` does not choose vLLM, in a few words; None when nothing speaks against it."""
    if find_spec("vllm") is None:
        return "vLLM is not installed"
    device = loaded.model.device
    if device.type != "cuda":
        return f"the model is on the {device.type}, where vLLM gains little"
    weights = sum(p.numel() * p.element_size() for p in loaded.model.parameters())
    free, _ = torch.cuda.mem_get_info(device)
    if free < ROOM * weights:
        return f"a second copy of the model would not fit: {free / 1e9:.1f} GB are free"
    from vllm import ModelRegistry  # pyright: ignore[reportMissingImports]

    kind = type(loaded.model).__name__
    return None if kind in ModelRegistry.get_supported_archs() else f"vLLM does not know {kind}"
