"""Retention: what the edit did to everything else. Accuracy on other skills, paired, and drift.

Drift is the mean over solution tokens of KL(base || patched), in nats: how far the whole next-token distribution moved
on text the model should go on writing as before. It sees changes long before an answer flips.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedModel

from cca import distributed
from cca.gradients.sampled_likelihood import Text, solution_log_probabilities
from cca.models.forward.prefixes import buckets

MAX_CACHED_BYTES = 1 << 31
"""Memory for the base model's log-probabilities. Of texts that need more, only every so manieth is measured."""


@dataclass
class DriftProbe:
    """Remembers what the model says of ``texts`` when it is made; `drift` tells how far it has moved since."""

    model: PreTrainedModel
    texts: Sequence[Text]
    batch_size: int = 32
    _base: list[Tensor] = field(default_factory=list, init=False)
    _batches: list[list[int]] = field(default_factory=list, init=False)
    """This process's share, like `_base`."""
    _count: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.texts = self._affordable()
        batches = buckets([len(text.prompt) + len(text.solution) for text in self.texts], self.batch_size)
        self._count = len(batches)
        self._batches = [batches[number] for number, _ in distributed.my_share(len(batches))]
        self._base = [self._log_probabilities(batch) for batch in self._batches]

    @property
    def tokens(self) -> int:
        return sum(len(text.solution) for text in self.texts)

    def drift(self) -> float:
        """Mean KL(base || now) over the solution tokens, in nats; 0.0 without texts."""
        kls: list[float] = []
        for batch, base in zip(self._batches, self._base, strict=True):
            base = base.double().log_softmax(dim=-1)
            now = self._log_probabilities(batch).double().log_softmax(dim=-1)
            kls.append(float((base.exp() * (base - now)).sum()))
        shares = distributed.all_gather_json(kls)
        # batch by batch, so that the sum is the same to the bit for every number of processes
        total = sum(shares[number % len(shares)][number // len(shares)] for number in range(self._count))
        # Rounding may leave it a hair below 0; a model that broke gives NaN, which must stay one.
        return 0.0 if total < 0 or not self.tokens else total / self.tokens

    def _log_probabilities(self, batch: Sequence[int]) -> Tensor:
        """(solution tokens of the batch, V) in float32, on the CPU."""
        with torch.inference_mode():
            return solution_log_probabilities(self.model, [self.texts[row] for row in batch]).float().cpu()

    def _affordable(self) -> Sequence[Text]:
        """Spread over all texts, so that every skill among them keeps its part."""
        budget = MAX_CACHED_BYTES // (4 * self.model.config.get_text_config().vocab_size)
        for stride in range(1, len(self.texts) + 1):
            spread = self.texts[::stride]
            if sum(len(text.solution) for text in spread) <= budget:
                return spread
        return []
