"""The model of this process for engines in other processes: where they find it, and which weights changed since.

torch counts the in-place writes to each tensor; comparing those counts costs nothing. Rows written by a patch or by
training rows (`cca.models.anatomy.weight_rows.set_rows_`) and optimizer steps are all counted.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from cca.engines.decoding import context_length, end_tokens
from cca.errors import CcaError
from cca.models.loading import LoadedModel

Seen = dict[str, tuple[int, int]]


@dataclass(frozen=True)
class ModelSource:
    """``dtype`` is what the model was loaded in, never 'auto': engines choose differently."""

    name: str
    revision: str | None
    dtype: str
    trust_remote_code: bool
    fingerprint: str
    ends: frozenset[int]
    """Token ids that end a text."""
    context: int
    """The longest text the model takes."""

    @staticmethod
    def of(loaded: LoadedModel, trust_remote_code: bool = False) -> ModelSource:
        """Of a model as it was loaded; what was written into it since is not there to be found."""
        model = loaded.model
        return ModelSource(
            loaded.name,
            loaded.revision,
            str(model.dtype).removeprefix("torch."),
            trust_remote_code,
            loaded.fingerprint,
            end_tokens(model),
            context_length(model),
        )


@dataclass
class WeightWatch:
    """``touched`` are the parameters written since the watch was made, in the order of their first write;
    ``state`` grows by one whenever `look` finds any written again."""

    model: PreTrainedModel
    touched: list[str] = field(default_factory=list, init=False)
    state: int = field(default=0, init=False)
    _seen: Seen = field(init=False)

    def __post_init__(self) -> None:
        self._seen = _writes(self.model)

    def look(self) -> list[str]:
        """The parameters written since the last look. Raises CcaError when the model has other modules than it had."""
        now = _writes(self.model)
        if now.keys() != self._seen.keys():
            raise CcaError(
                "engine: expected the model it was made for, got one with other parameters (an adapter); set engine: hf"
            )
        written = [name for name, counted in now.items() if counted != self._seen[name]]
        if written:
            self.state += 1
            self.touched += [name for name in written if name not in self.touched]
        self._seen = now
        return written

    def value(self, name: str) -> Tensor:
        """A copy on the CPU of what a parameter holds now."""
        parameter = self.model.get_parameter(name).detach()
        if parameter.is_meta:
            raise CcaError(
                f"{name}: its weights are offloaded; load the model with all weights on a device, or set engine: hf"
            )
        return parameter.cpu().clone(memory_format=torch.contiguous_format)


def checkpoint_tensors(watch: WeightWatch) -> dict[str, Tensor]:
    """What was ever written, as it is now and as a checkpoint names and shapes it; with it the rest of the same
    attention or MLP blocks, since servers fuse some of their parameters into one matrix."""
    from transformers.core_model_loading import revert_weight_conversion

    blocks = {_parent(_parent(name)) for name in watch.touched}
    names = [
        name
        for name, _ in watch.model.named_parameters()
        if any(not block or name.startswith(f"{block}.") for block in blocks)
    ]
    held = revert_weight_conversion(watch.model, {name: watch.value(name) for name in names})
    return {name: tensor.contiguous() for name, tensor in held.items()}


def _parent(name: str) -> str:
    return name.rpartition(".")[0]


def _writes(model: nn.Module) -> Seen:
    """Of each parameter, where it lies and how often it was written in place."""
    return {name: (parameter.data_ptr(), parameter._version) for name, parameter in model.named_parameters()}
