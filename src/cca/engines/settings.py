"""Settings of the engines: what generates text, and where. None of them changes what is asked of an engine."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from cca.section import Section

EngineName = Literal["auto", "hf", "vllm", "ray"]
OURS = ("model", "dtype", "revision", "tensor_parallel_size", "max_model_len", "logits_processors")
OURS += ("data_parallel_size",)


class VLLMConfig(Section):
    tensor_parallel: int = Field(default=1, ge=1)
    """GPUs that one copy of the model is split over."""
    data_parallel: int = Field(default=1, ge=1)
    """Copies of the model that share the work; more than one are run as Ray actors on this machine."""
    memory: float | None = Field(default=None, gt=0, lt=1)
    """Share of the device's memory that vLLM may take, its weights included; by default half of what is free."""
    context: int | None = Field(default=None, ge=2)
    """Longest text, prompt and completion together; by default what the model takes, at most 8192."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Anything else that vLLM's LLM(...) takes, by its name there (enforce_eager, pipeline_parallel_size, ...)."""

    @field_validator("options")
    @classmethod
    def _not_ours(cls, options: dict[str, Any]) -> dict[str, Any]:
        for name in OURS:
            if name in options:
                raise ValueError(f"{name} follows from other keys of the run")
        return options


class RayConfig(Section):
    address: str | None = None
    """Cluster to use: host:port, ray://host:port, or auto for this machine's; by default a new one on this machine."""
    actors: int = Field(default=2, ge=1)
    """Engines that share the work, each with a copy of the model."""
    engine: Literal["hf", "vllm"] = "hf"
    """What each actor generates with."""
    cpus: float = Field(default=1.0, ge=0)
    """Processors to reserve for an actor."""
    gpus: float = Field(default=0.0, ge=0)
    """GPUs to reserve for an actor; vllm needs tensor_parallel of them."""
