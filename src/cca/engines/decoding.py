"""Decoding texts row by row of a batch that stays full, and the choice of each token."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from cca.engines.engine import Completion, GreedyPath, Request, StopRule, Tokens
from cca.engines.rows import Rows
from cca.models.precision import in_double

STOP_EVERY = 8
"""Decoded tokens between two looks at the stop rule of a row; it costs Python time, a late stop a few tokens."""
FEWEST = 8
"""Rows join once a part in this many is free: a forward pass for a single one costs reading all weights."""
SAMPLED_VALUES = 1 << 22
"""Probabilities in float64 that sampling holds at once."""


@dataclass
class _Row:
    index: int
    request: Request
    budget: int
    """Longest completion, with what is written of it."""
    draws: list[float]
    """Random numbers in [0, 1), one for each new token; empty for a greedy text."""
    text: list[int]
    """The completion so far, with what is written of it."""

    @property
    def made(self) -> int:
        """New tokens."""
        return len(self.text) - self.request.written


def decode(
    rows: Rows,
    requests: Sequence[tuple[int, Request, int, int]],
    shared: int,
    size: int,
    ends: frozenset[int],
    stop: StopRule | None,
    device: torch.device,
    count: Callable[[int], None] = lambda _: None,
) -> Iterator[tuple[int, Completion]]:
    """Yield (index, its new tokens) as texts end; others take their place, so that ``size`` are decoded at once.

    requests: index, request, longest completion with what is written of it, and how many random numbers of the
    request's seed earlier tokens have used. The first ``shared`` tokens of all prefixes are in ``rows`` already.
    ``count`` gets the number of tokens of each step.
    """
    waiting = list(reversed(requests))
    active: list[_Row] = []
    logits: list[Tensor] = []
    while waiting or active:
        free = size - len(active)
        if waiting and (not active or (rows.grows and FEWEST * free >= size)):
            new = [_row(*waiting.pop()) for _ in range(min(free, len(waiting)))]
            logits.append(rows.add([row.request.prefix[shared:] for row in new]))
            active += new
        chosen = _chosen(torch.cat(logits) if len(logits) > 1 else logits[0], active, device)
        count(len(active))
        keep: list[int] = []
        for place, (row, token) in enumerate(zip(active, chosen.tolist(), strict=True)):
            row.text.append(token)
            ended = token in ends or (stop is not None and len(row.text) % STOP_EVERY == 0 and stop(row.text))
            if ended or len(row.text) >= row.budget:
                yield row.index, Completion(tuple(row.text[row.request.written :]), ended)
            else:
                keep.append(place)
        active = [active[place] for place in keep]
        rows.keep(keep)
        logits = [rows.step(chosen[keep] if len(keep) < len(chosen) else chosen)] if keep else []


def _row(index: int, request: Request, budget: int, used: int) -> _Row:
    new = budget - request.written
    draws = uniforms(request.seed, used + new)[used:].tolist() if request.temperature else []
    return _Row(index, request, budget, draws, list(request.prefix[len(request.prefix) - request.written :]))


def _chosen(logits: Tensor, rows: Sequence[_Row], device: torch.device) -> Tensor:
    """(B,) the next token of each row."""
    if not any(row.draws for row in rows):
        return logits.argmax(dim=-1)
    temperatures = torch.tensor([row.request.temperature for row in rows], device=device)
    places = torch.tensor([row.draws[row.made] if row.draws else 0.0 for row in rows], dtype=torch.float64)
    return choose(logits, temperatures, places if device.type == "mps" else places.to(device))  # no float64 there


ROUNDING = 4
"""How far rounding may move a lead, in units of the dtype's eps times the larger logit: measured, up to 1.1."""


def greedy_path(logits: Tensor, text: Tokens, dtype: torch.dtype) -> GreedyPath:
    """From the (T, V) logits before each token of ``text``, of a model that computes in ``dtype``."""
    best, tokens = logits.topk(2, dim=-1)
    taken = logits.gather(1, torch.tensor(text, device=logits.device)[:, None])[:, 0]
    log_probs = taken - logits.logsumexp(dim=-1)
    greedy, second = tokens.T.tolist()
    margins = best[:, 0] - best[:, 1] - ROUNDING * torch.finfo(dtype).eps * best.abs().amax(dim=-1)
    return GreedyPath(tuple(greedy), tuple(margins.tolist()), tuple(second), tuple(log_probs.tolist()))


def end_tokens(model: PreTrainedModel) -> frozenset[int]:
    """The token ids that end a text, by the generation settings: `cca.models.loading` completes these."""
    ends = model.generation_config.eos_token_id if model.generation_config else model.config.eos_token_id
    return frozenset([ends] if isinstance(ends, int) else ends or ())


def context_length(model: PreTrainedModel) -> int:
    """The longest text the model takes, prompt and completion together."""
    config = model.config.get_text_config()
    return getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None) or 1 << 20


def uniforms(seed: int, steps: int) -> Tensor:
    """(steps,) float64 numbers in [0, 1) on the CPU; a longer draw begins with the shorter one."""
    return torch.rand(steps, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def choose(logits: Tensor, temperatures: Tensor, places: Tensor) -> Tensor:
    """(B, V) -> (B,): the greedy token where the temperature is 0, else the one at its place (B,) in the CDF.

    A few rows at a time: in float64 the logits of a large vocabulary are large.
    """
    size = max(1, SAMPLED_VALUES // logits.shape[-1])
    parts = zip(logits.split(size), temperatures.split(size), places.split(size), strict=True)
    return torch.cat([_choose(*part) for part in parts])


def _choose(logits: Tensor, temperatures: Tensor, places: Tensor) -> Tensor:
    wide = in_double(logits)
    scaled = wide / temperatures.to(wide.device).clamp_min(1e-6)[:, None]
    cumulative = scaled.softmax(dim=-1).cumsum(dim=-1)
    sampled = torch.searchsorted(cumulative, places[:, None] * cumulative[:, -1:], right=True)[:, 0]
    sampled = sampled.clamp_max(logits.shape[-1] - 1).to(logits.device)
    return torch.where(temperatures > 0, sampled, logits.argmax(dim=-1))
