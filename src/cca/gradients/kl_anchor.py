"""The KL anchor: a penalty on moving away from the base model's predictions.

weight * mean over solution tokens of KL(base || now), on given texts (retention texts, or the model's own right
traces), is added to the pivot objective. Its gradient is zero at the untouched model: it does not change the first
step, and resists those after it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional
from transformers import PreTrainedModel

from cca import distributed
from cca.errors import CcaError
from cca.gradients.pivot_gradient import Trained
from cca.gradients.sampled_likelihood import Text, solution_log_probabilities
from cca.models.forward.prefixes import buckets


class KLAnchor:
    """Remembers the model's predictions on ``texts`` as it is now. Raises CcaError without texts."""

    def __init__(
        self, model: PreTrainedModel, texts: Sequence[Text], weight: float, batch_size: int = 16
    ) -> None:
        texts = [text for text in texts if text[0] and text[1]]
        if not texts:
            raise CcaError(
                "amplify.anchor: expected texts to hold the model to, got none; add retention sets"
            )
        self.model, self.weight = model, weight
        batches = buckets([len(prompt) + len(solution) for prompt, solution in texts], batch_size)
        own = distributed.my_share(len(batches))
        self.batches = [[texts[row] for row in batches[number]] for number, _ in own]
        self._counts = [counts for _, counts in own]
        self.tokens = sum(len(solution) for _, solution in texts)
        with torch.no_grad():
            self.base = [solution_log_probabilities(self.model, batch) for batch in self.batches]

    def add_gradient(self, trained: Trained) -> float:
        """Add the gradient of weight * KL; returns weight * KL, in nats."""
        total = 0.0
        with distributed.summed_gradients(trained.leaves), trained.active():
            for batch, base, counts in zip(self.batches, self.base, self._counts, strict=True):
                now = solution_log_probabilities(self.model, batch)
                kl = functional.kl_div(now, base, reduction="sum", log_target=True)
                loss = counts * self.weight * kl / self.tokens
                loss.backward()
                total += float(loss.detach())
        return distributed.all_reduce_sums(total)[0]
