"""Pivots as one-token problems: everything before a pivot's last token is constant under gates, so it is run once.

The prefix that all pivots share (few-shot examples) is computed for one row; the rest of each pivot's prefix for its
own row. After that a forward pass takes one token per pivot, whatever the prompt's length.

With several processes (`cca.distributed`) each keeps the prefixes of its share of every batch and computes their gaps;
all get all gaps, and the gradient of factors is that of all pivots. Callers need not know how many processes there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from cca import distributed
from cca.errors import CcaError
from cca.models.anatomy.anatomy import Anatomy
from cca.models.forward.attention import hooked_attention
from cca.models.forward.gates import gated
from cca.models.forward.one_token_attention import OneTokenPrefixes
from cca.models.forward.prefix_store import Storage
from cca.models.forward.prefixes import buckets, common_prefix, logits_at, most_tokens, prefill, prefill_own
from cca.models.precision import wide
from cca.pivots.pivot import Pivot


class PivotForward:
    """Logit gaps of pivots under gate factors, by batches of pivots of similar length.

    storage: where the prefixes are kept between steps; "auto" is the first storage with room for them. Raises CcaError
    without pivots.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        anatomy: Anatomy,
        pivots: Sequence[Pivot],
        batch_size: int,
        storage: Storage | Literal["auto"] = "auto",
    ) -> None:
        if not pivots:
            raise CcaError("pivots: expected at least one pivot, got none; sample more traces (traces.samples)")
        self.model, self.anatomy = model, anatomy
        tokens = [pivot.tokens for pivot in pivots]
        shared = common_prefix(tokens)
        self.shared = prefill(model, anatomy, tokens[0][:shared]) if shared else None
        between = [row[shared:-1] for row in tokens]
        batches = buckets(list(map(len, between)), batch_size, most_tokens(model, max(map(len, tokens))))
        own = [[rows[index] for index, _ in distributed.my_share(len(rows))] for rows in batches]
        self.own = prefill_own(model, anatomy, between, self.shared, storage=storage, batches=own)
        device = model.device
        self.last = torch.tensor([[row[-1]] for row in tokens], device=device)  # (P, 1)
        self.desired = torch.tensor([pivot.desired for pivot in pivots], device=device)
        self.undesired = torch.tensor([pivot.undesired for pivot in pivots], device=device)
        self._batches = [torch.tensor(rows, device=device) for rows in batches]
        self._own_rows = [torch.tensor(rows, device=device) for rows in own]
        self._direct = all(parts.interface for parts in anatomy.layers)
        # prefixes that do not fit on the device are fetched from their storage for each step
        self._in_place = self._prefixes if self.own.moves else cache(self._prefixes)

    @property
    def batches(self) -> int:
        return len(self.own)

    def gaps(self, batch: int, factors: Tensor) -> Tensor:
        """logit(desired) - logit(undesired) of one batch with components scaled by ``factors`` (paper, section 3.2).

        factors: (anatomy.size,), or one row per pivot, (B, anatomy.size). Returns (B,) in float32 or wider,
        differentiable with respect to the factors.
        """
        rows, factors = self._own_rows[batch], distributed.sum_gradients(factors)
        if factors.dim() == 2:
            factors = factors[[index for index, _ in distributed.my_share(len(factors))]]
        gaps = logit_gaps(self._logits(batch, factors), self.desired[rows], self.undesired[rows])
        return distributed.all_gather_shares(gaps, len(self.rows(batch)))

    def _logits(self, batch: int, factors: Tensor) -> Tensor:
        """Logits (B, V) after the last tokens of this process's share of a batch."""
        last = self.last[self._own_rows[batch]]
        with gated(self.model, self.anatomy, factors):
            if not self._direct:
                return logits_at(self.model, self.anatomy, last, shared=self.shared, own=self.own[batch])
            with hooked_attention(self.model, self.anatomy, prefixes=self._in_place(batch)):
                return logits_at(self.model, self.anatomy, last)

    def rows(self, batch: int) -> Tensor:
        """Numbers of the pivots in one batch, (B,)."""
        return self._batches[batch]

    def _prefixes(self, batch: int) -> OneTokenPrefixes:
        return OneTokenPrefixes(self.model, self.shared, self.own[batch])


def logit_gaps(logits: Tensor, desired: Tensor, undesired: Tensor) -> Tensor:
    """logits (B, V), token ids (B,) -> (B,), in float32 or wider."""
    logits = wide(logits)
    return (logits.gather(1, desired[:, None]) - logits.gather(1, undesired[:, None])).squeeze(1)
