"""Where an engine in another process finds the model that this process holds."""

from __future__ import annotations

from dataclasses import dataclass

from cca.engines.hf import context_length, end_tokens
from cca.models.loading import LoadedModel


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
