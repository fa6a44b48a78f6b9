"""One batch of texts on a transformers model: decoded step by step, or read in one pass. Token ids in, logits out."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from cca.engines.engine import Completion, GreedyPath, Request, StopRule, Tokens

STOP_EVERY = 8
"""Decoded tokens between two looks at the stop rule of a row; it costs Python time, a late stop a few tokens."""


class Decoding:
    """The state of one batch while it decodes. Rows that end are handed out and dropped.

    The first ``shared`` tokens of all prefixes are in ``prefix_cache`` already. Without ``cached`` the model reads the
    whole text again for each token, as one that has no cache must.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        requests: Sequence[Request],
        shared: int = 0,
        prefix_cache: DynamicCache | None = None,
        cached: bool = True,
    ) -> None:
        self.model, self.requests = model, requests
        self.ends = end_tokens(model)
        self.cache: DynamicCache | None = None
        if cached:
            self.cache = DynamicCache(config=model.config)
            if prefix_cache is not None:
                self.cache = expanded(prefix_cache, len(requests))
        self.token_ids, own_mask = pad_left([request.prefix[shared:] for request in requests], model.device)
        self.mask = torch.cat([own_mask.new_ones(len(requests), shared), own_mask], dim=1)
        self.positions = positions_of(self.mask)[:, shared:]
        self.temperatures = torch.tensor([request.temperature for request in requests], device=model.device)

    def run(
        self, budgets: Sequence[int], stop: StopRule | None, drawn: Sequence[int]
    ) -> Iterator[tuple[int, Completion]]:
        """Yield (row, its new tokens) as rows end.

        ``budgets`` are the longest completions of the rows with what is written of them, ``drawn`` the random numbers
        of each row's seed that earlier tokens have used.
        """
        rows = list(range(len(self.requests)))
        texts = [list(request.prefix[len(request.prefix) - request.written :]) for request in self.requests]
        written = [request.written for request in self.requests]
        longest = max(budget - own for budget, own in zip(budgets, written, strict=True))
        places = self._places(longest, drawn)
        for step in range(longest):
            chosen = choose(self.logits(), self.temperatures, None if places is None else places[rows, step])
            keep: list[int] = []
            for index, (row, token) in enumerate(zip(rows, chosen.tolist(), strict=True)):
                texts[row].append(token)
                ended = token in self.ends or (
                    stop is not None and len(texts[row]) % STOP_EVERY == 0 and stop(texts[row])
                )
                if ended or len(texts[row]) >= budgets[row]:
                    yield row, Completion(tuple(texts[row][written[row] :]), ended)
                else:
                    keep.append(index)
            if not keep:
                return
            rows = [rows[index] for index in keep]
            self.advance(chosen, keep)

    def logits(self) -> Tensor:
        """(B, V), at least float32: of the token after each row."""
        inputs: dict[str, Any] = {"past_key_values": self.cache} if self.cache is not None else {}
        logits = last_logits(
            self.model, 1, self.token_ids, self.mask, self.positions, use_cache=self.cache is not None, **inputs
        )
        return wide(logits[:, -1])

    def advance(self, chosen: Tensor, keep: Sequence[int]) -> None:
        """Append the tokens ``chosen`` (B,) and go on with the rows ``keep``."""
        if len(keep) < len(chosen):
            places = torch.tensor(keep, device=chosen.device)
            if self.cache is not None:
                self.cache.batch_select_indices(places)
            self.token_ids, self.mask = self.token_ids[places], self.mask[places]
            self.positions, chosen = self.positions[places], chosen[places]
            self.temperatures = self.temperatures[places]
        after = self.positions[:, -1:] + 1
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), 1)], dim=1)
        if self.cache is not None:
            self.token_ids, self.positions = chosen[:, None], after
        else:
            self.token_ids = torch.cat([self.token_ids, chosen[:, None]], dim=1)
            self.positions = torch.cat([self.positions, after], dim=1)

    def _places(self, steps: int, drawn: Sequence[int]) -> Tensor | None:
        """(B, steps) numbers in [0, 1), each row from its request's seed; None when all requests are greedy."""
        if not any(request.temperature for request in self.requests):
            return None
        rows = [uniforms(request.seed, used + steps)[used:] for request, used in zip(self.requests, drawn, strict=True)]
        places = torch.stack(rows)
        return places if self.model.device.type == "mps" else places.to(self.model.device)  # no float64 there


def read_batch(
    model: PreTrainedModel,
    texts: Sequence[tuple[Tokens, Tokens]],
    shared: int = 0,
    prefix_cache: DynamicCache | None = None,
) -> Iterator[Tensor]:
    """(T, V) logits, at least float32, before each of the T tokens of every (prefix, text), in one forward pass."""
    rows = [prefix[shared:] + text[:-1] for prefix, text in texts]
    token_ids, own_mask = pad_left(rows, model.device)
    mask = torch.cat([own_mask.new_ones(len(rows), shared), own_mask], dim=1)
    longest = max(len(text) for _, text in texts)
    inputs: dict[str, Any] = {}
    if prefix_cache is not None:
        inputs["past_key_values"] = expanded(prefix_cache, len(rows))
    logits = last_logits(
        model, longest, token_ids, mask, positions_of(mask)[:, shared:], use_cache=bool(inputs), **inputs
    )  # rows end together, so every text is in the last `longest` positions
    for row, (_, text) in enumerate(texts):
        yield wide(logits[row, longest - len(text) :])  # a row at a time: vocabularies are large


ROUNDING = 4
"""How far rounding may move a lead, in units of the dtype's eps times the largest logit: measured, up to 1.1."""


def greedy_path(logits: Tensor, text: Tokens, dtype: torch.dtype) -> GreedyPath:
    """From the (T, V) logits before each token of ``text``, of a model that computes in ``dtype``."""
    best, tokens = logits.topk(2, dim=-1)
    taken = logits.gather(1, torch.tensor(text, device=logits.device)[:, None])[:, 0]
    log_probs = taken - logits.logsumexp(dim=-1)
    greedy, second = tokens.T.tolist()
    margins = best[:, 0] - best[:, 1] - ROUNDING * torch.finfo(dtype).eps * logits.abs().amax(dim=-1)
    return GreedyPath(tuple(greedy), tuple(margins.tolist()), tuple(second), tuple(log_probs.tolist()))


def prefill(model: PreTrainedModel, prefix: Tokens) -> DynamicCache:
    """The cache of a prefix, one row."""
    cache = DynamicCache(config=model.config)
    token_ids = torch.tensor([prefix], device=model.device)
    mask = torch.ones_like(token_ids)
    last_logits(model, 1, token_ids, mask, positions_of(mask), past_key_values=cache, use_cache=True)
    return cache


def last_logits(
    model: PreTrainedModel, keep: int, token_ids: Tensor, mask: Tensor, positions: Tensor, **inputs: Any
) -> Tensor:
    """(B, keep, V): logits of the last ``keep`` positions of (B, T) token ids.

    Arguments that the model's own code does not know are left out; without ``logits_to_keep`` it gives all positions.
    """
    given = {"attention_mask": mask, "position_ids": positions, "logits_to_keep": keep, **inputs}
    known = _arguments(type(model))
    if known is not None:
        given = {name: value for name, value in given.items() if name in known}
    return model(input_ids=token_ids, **given).logits[:, -keep:]


@lru_cache
def _arguments(kind: type[PreTrainedModel]) -> frozenset[str] | None:
    """The arguments of the model's forward pass; None where it takes any."""
    parameters = inspect.signature(kind.forward).parameters
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return None
    return frozenset(parameters)


def pad_left(rows: Sequence[Tokens], device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids (B, T) and the mask (B, T) that is 0 on the padding at the left."""
    longest = max(map(len, rows))
    padded = [(0,) * (longest - len(row)) + tuple(row) for row in rows]
    mask = [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(padded, device=device), torch.tensor(mask, device=device)


def wide(logits: Tensor) -> Tensor:
    """The logits in float32 or wider: ties and margins are not half precision's to decide."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def positions_of(mask: Tensor) -> Tensor:
    return (mask.cumsum(dim=-1) - 1).clamp_min(0)


def expanded(cache: DynamicCache, rows: int) -> DynamicCache:
    """A cache of ``rows`` equal rows; the original is left as it was."""
    copy = DynamicCache()
    for layer, (keys, values, *_) in enumerate(cache):
        assert keys is not None and values is not None, "a prefilled cache holds every layer"  # noqa: PT018
        copy.update(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1), layer)
    return copy


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


def in_double(x: Tensor) -> Tensor:
    """``x`` in float64, on its device; on the CPU where that has no float64 (MPS)."""
    return (x.cpu() if x.device.type == "mps" else x).double()


def choose(logits: Tensor, temperatures: Tensor, places: Tensor | None) -> Tensor:
    """(B, V) -> (B,): the greedy token where the temperature is 0, else the one at its place (B,) in the CDF.

    ``places`` None: all are greedy.
    """
    greedy = logits.argmax(dim=-1)
    if places is None:
        return greedy
    wide = in_double(logits)
    scaled = wide / temperatures.to(wide.device).clamp_min(1e-6)[:, None]
    cumulative = scaled.softmax(dim=-1).cumsum(dim=-1)
    sampled = torch.searchsorted(cumulative, places[:, None] * cumulative[:, -1:], right=True)[:, 0]
    sampled = sampled.clamp_max(logits.shape[-1] - 1).to(greedy.device)
    return torch.where(temperatures > 0, sampled, greedy)
