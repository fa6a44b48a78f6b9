"""Pivots as one-token problems: everything before a pivot's last token is constant under gates, so it is run once.

What all pivots share (few-shot examples) is computed for one row; the rest of each pivot's prefix for its own row.
After that a forward pass takes one token per pivot, whatever the prompt's length (DESIGN: stage 2).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from cca.models.anatomy import Anatomy
from cca.models.gates import gated
from cca.models.prefixes import common_prefix, logits_at, prefill, prefill_own
from cca.pivots.pivot import Pivot


class PivotForward:
    """Logit gaps of pivots under gate factors, by batches of pivots of similar length."""

    def __init__(
        self, model: PreTrainedModel, anatomy: Anatomy, pivots: Sequence[Pivot], batch_size: int
    ) -> None:
        self.model, self.anatomy = model, anatomy
        tokens = [pivot.tokens for pivot in pivots]
        shared = common_prefix(tokens)
        self.shared = prefill(model, anatomy, tokens[0][:shared]) if shared else None
        self.own = prefill_own(model, anatomy, [row[shared:-1] for row in tokens], self.shared, batch_size)
        self.last = torch.tensor([[row[-1]] for row in tokens], device=model.device)  # (P, 1)
        self.desired = torch.tensor([pivot.desired for pivot in pivots], device=model.device)
        self.undesired = torch.tensor([pivot.undesired for pivot in pivots], device=model.device)

    @property
    def batches(self) -> int:
        return len(self.own)

    def gaps(self, batch: int, factors: Tensor) -> Tensor:
        """logit(desired) - logit(undesired), (B,), of one batch with components scaled by ``factors`` (size,)."""
        rows = torch.tensor(self.own[batch].rows, device=self.last.device)
        return logit_gaps(self.logits(batch, factors), self.desired[rows], self.undesired[rows])

    def logits(self, batch: int, factors: Tensor) -> Tensor:
        """Logits (B, V) after the last tokens of one batch; ``factors`` are (size,) or one row a pivot, (B, size)."""
        own = self.own[batch]
        with gated(self.model, self.anatomy, factors):
            return logits_at(self.model, self.anatomy, self.last[list(own.rows)], shared=self.shared, own=own)


def logit_gaps(logits: Tensor, desired: Tensor, undesired: Tensor) -> Tensor:
    """logits (B, V), token ids (B,) -> (B,), in float32 or wider."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return (wide.gather(1, desired[:, None]) - wide.gather(1, undesired[:, None])).squeeze(1)
