"""The Hugging Face engine: batched decoding of token-id prefixes with any causal language model.

Notable decisions:

* Sampling follows the request's own seed (`cca.engines.sampling`), so batch order and batch size do not change what
  is sampled; only the kernels' rounding can.
* Requests are sorted by length, padded on the left within a batch, and rows that have ended leave the batch.
* A prefix that all requests share (few-shot examples) is computed once.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from cca.engines.engine import Completion, GreedyPath, Progress, Request, StopRule, Tokens
from cca.engines.sampling import choose, uniforms
from cca.errors import CcaError
from cca.models.memory import halving

STOP_EVERY = 8
"""Decoded tokens between two looks at the stop rule of a row; it costs Python time, a late stop a few tokens."""
READ_VALUES = 1 << 29
"""Logits that reading may hold at once: a vocabulary's for every token of every text."""
MIN_SHARED = 16
"""Shared prefixes shorter than this are not worth a cache of their own."""


@dataclass
class HFEngine:
    model: PreTrainedModel
    batch_size: int = 64
    tell: Callable[[str], None] = warnings.warn
    """Told when memory ran out and the batch was halved."""
    generated_tokens: int = field(default=0, init=False)
    parallel_chunks: int = field(default=1, init=False)
    reads_cheaply: bool = field(default=True, init=False)
    together: ClassVar[bool] = True
    """Whether all processes of a run, where there are several, decode the same batches side by side."""

    def complete(
        self,
        requests: Sequence[Request],
        max_new_tokens: int,
        stop: StopRule | None = None,
        progress: Progress | None = None,
        shared: int | None = None,
    ) -> list[Completion]:
        """Complete every request. Raises CcaError for an empty prefix or one that leaves no room for a token.

        ``shared``: tokens at the beginning that all prefixes have in common and that are to be computed once; by
        default `shared_length` of them.
        """
        limit = context_length(self.model)
        check_room(requests, limit, max_new_tokens)
        if shared is None:
            shared = shared_length([request.prefix for request in requests], self.model)
        results: dict[int, Completion] = {}
        with torch.inference_mode():
            prefix_cache = self._prefill(requests[0].prefix[:shared]) if shared else None
            order = decoding_order(requests)

            def decode(indices: Sequence[int]) -> None:
                batch = _Decoding(self.model, [requests[index] for index in indices], shared, prefix_cache)
                made = dict(batch.run(min(max_new_tokens, limit), stop))
                results.update((indices[row], completion) for row, completion in made.items())
                self.generated_tokens += sum(len(completion.token_ids) for completion in made.values())
                if progress:
                    progress(len(indices))

            self._by_batches("generation", order, decode)
        return [results[index] for index in range(len(requests))]

    def greedy_paths(
        self, texts: Sequence[tuple[Tokens, Tokens]], shared: int | None = None
    ) -> list[GreedyPath]:
        if shared is None:
            shared = shared_length([prefix for prefix, _ in texts], self.model)
        order = reading_order(texts)
        paths: dict[int, GreedyPath] = {}
        with torch.inference_mode():
            prefix_cache = self._prefill(texts[0][0][:shared]) if shared else None

            def read(indices: Sequence[int]) -> None:
                longest = max(len(texts[i][1]) for i in indices)
                size = max(1, READ_VALUES // (longest * self.model.config.get_text_config().vocab_size))
                for start in range(0, len(indices), size):
                    own = indices[start : start + size]
                    batch = self._greedy_batch([texts[i] for i in own], shared, prefix_cache)
                    paths.update(zip(own, batch, strict=True))

            self._by_batches("reading texts", order, read)
        return [paths[index] for index in range(len(texts))]

    def close(self) -> None:
        """Nothing runs beside this process."""

    def _by_batches(self, what: str, order: Sequence[int], work: Callable[[Sequence[int]], None]) -> None:
        """``work`` on the indices in ``order``, a batch at a time; batches stay halved once memory ran out."""
        start = 0
        while start < len(order):

            def attempt(size: int, start: int = start) -> int:
                work(order[start : start + size])
                return size

            size = min(self.batch_size, len(order) - start)
            done = halving(what, size, attempt, self.tell, self.together)
            if done < size:
                self.batch_size = done
            start += done

    def _greedy_batch(
        self, texts: Sequence[tuple[Tokens, Tokens]], shared: int, prefix_cache: DynamicCache | None
    ) -> Iterator[GreedyPath]:
        rows = [prefix[shared:] + text[:-1] for prefix, text in texts]
        token_ids, own_mask = _pad_left(rows, self.model.device)
        attention_mask = torch.cat([own_mask.new_ones(len(rows), shared), own_mask], dim=1)
        longest = max(len(text) for _, text in texts)
        logits = self.model(
            input_ids=token_ids,
            attention_mask=attention_mask,
            position_ids=_positions(attention_mask)[:, shared:],
            past_key_values=_expanded(prefix_cache, len(rows)) if prefix_cache else None,
            use_cache=prefix_cache is not None,
            logits_to_keep=longest,
        ).logits  # (B, longest, V): rows end together, so every text is in the last `longest` positions
        for row, (_, text) in enumerate(texts):
            own = _wide(logits[row, longest - len(text) :])  # (T, V), a row at a time: vocabularies are large
            best, tokens = own.topk(2, dim=-1)
            taken = own.gather(1, torch.tensor(text, device=own.device)[:, None])[:, 0]
            log_probs = taken - own.logsumexp(dim=-1)
            greedy, second = tokens.T.tolist()
            yield GreedyPath(
                tuple(greedy),
                tuple((best[:, 0] - best[:, 1]).tolist()),
                tuple(second),
                tuple(log_probs.tolist()),
            )

    def _prefill(self, prefix: Tokens) -> DynamicCache:
        cache = DynamicCache(config=self.model.config)
        token_ids = torch.tensor([prefix], device=self.model.device)
        self.model(input_ids=token_ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return cache


class _Decoding:
    """The state of one batch while it decodes. Rows that end are handed out and dropped."""

    def __init__(
        self,
        model: PreTrainedModel,
        requests: Sequence[Request],
        shared: int,
        prefix_cache: DynamicCache | None,
    ) -> None:
        self.model = model
        self.ends = end_tokens(model)
        self.requests = requests
        self.cache = (
            _expanded(prefix_cache, len(requests)) if prefix_cache else DynamicCache(config=model.config)
        )
        self.token_ids, own_mask = _pad_left([request.prefix[shared:] for request in requests], model.device)
        self.mask = torch.cat([own_mask.new_ones(len(requests), shared), own_mask], dim=1)
        self.positions = _positions(self.mask)[:, shared:]
        self.temperatures = torch.tensor([request.temperature for request in requests], device=model.device)

    def run(self, max_new_tokens: int, stop: StopRule | None) -> Iterator[tuple[int, Completion]]:
        limit = context_length(self.model)
        rows = list(range(len(self.requests)))
        texts = [list(request.begun(max_new_tokens)) for request in self.requests]
        written = [request.written for request in self.requests]
        budgets = [
            min(max_new_tokens, limit - len(request.prefix) + request.written) for request in self.requests
        ]
        longest = max(budget - own for budget, own in zip(budgets, written, strict=True))
        places = self._places(longest)
        for step in range(longest):
            logits = self._forward()
            chosen = choose(logits, self.temperatures, None if places is None else places[rows, step])
            keep: list[int] = []
            for place, (row, token) in enumerate(zip(rows, chosen.tolist(), strict=True)):
                texts[row].append(token)
                ended = token in self.ends or (
                    stop is not None and len(texts[row]) % STOP_EVERY == 0 and stop(texts[row])
                )
                if ended or len(texts[row]) >= budgets[row]:
                    yield row, Completion(tuple(texts[row][written[row] :]), ended)
                else:
                    keep.append(place)
            if not keep:
                return
            rows = [rows[place] for place in keep]
            self._advance(chosen, keep)

    def _places(self, steps: int) -> Tensor | None:
        """(B, steps) numbers in [0, 1), each row from its request's seed; None when all requests are greedy."""
        if not any(request.temperature for request in self.requests):
            return None
        places = torch.stack([uniforms(request.seed, steps) for request in self.requests])
        return places if self.model.device.type == "mps" else places.to(self.model.device)  # no float64 there

    def _forward(self) -> Tensor:
        output = self.model(
            input_ids=self.token_ids,
            attention_mask=self.mask,
            position_ids=self.positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return _wide(output.logits[:, -1])  # (B, V)

    def _advance(self, chosen: Tensor, keep: list[int]) -> None:
        if len(keep) < len(chosen):
            places = torch.tensor(keep, device=chosen.device)
            self.cache.batch_select_indices(places)
            self.mask, self.positions = self.mask[places], self.positions[places]
            self.temperatures, chosen = self.temperatures[places], chosen[places]
        self.token_ids = chosen[:, None]
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), 1)], dim=1)
        self.positions = self.positions[:, -1:] + 1


def check_room(requests: Sequence[Request], limit: int, max_new_tokens: int) -> None:
    """Raise CcaError for an empty prefix, and for one that leaves no room for a token."""
    for request in requests:
        if not 0 < len(request.prefix) < limit:
            raise CcaError(f"expected a prefix of 1 to {limit - 1} tokens, got {len(request.prefix)}")
        request.begun(max_new_tokens)


def decoding_order(requests: Sequence[Request]) -> list[int]:
    """Indices of the requests in the order in which they are batched: long prefixes first."""
    return sorted(range(len(requests)), key=lambda index: -len(requests[index].prefix))


def reading_order(texts: Sequence[tuple[Tokens, Tokens]]) -> list[int]:
    """Indices of (prefix, text) pairs in the order in which they are batched: short ones first."""
    return sorted(range(len(texts)), key=lambda index: sum(map(len, texts[index])))


def shared_length(prefixes: Sequence[Tokens], model: PreTrainedModel) -> int:
    """Length of the prefix to compute once; 0 where it is short or padding would upset a sliding window."""
    config = model.config.get_text_config()
    if len(prefixes) < 2 or getattr(config, "sliding_window", None):
        return 0
    first, last = min(prefixes), max(prefixes)
    shortest = min(map(len, prefixes)) - 1  # at least one token stays outside
    shared = next((i for i in range(shortest) if first[i] != last[i]), shortest)
    return shared if shared >= MIN_SHARED else 0


def _pad_left(rows: Sequence[Tokens], device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids (B, T) and the mask (B, T) that is 0 on the padding at the left."""
    longest = max(map(len, rows))
    padded = [(0,) * (longest - len(row)) + tuple(row) for row in rows]
    mask = [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(padded, device=device), torch.tensor(mask, device=device)


def _wide(logits: Tensor) -> Tensor:
    """At least float32: ties and margins are not half precision's to decide."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _positions(mask: Tensor) -> Tensor:
    return (mask.cumsum(dim=-1) - 1).clamp_min(0)


def _expanded(cache: DynamicCache, rows: int) -> DynamicCache:
    """A cache of ``rows`` equal rows; the original is left as it was."""
    copy = DynamicCache()
    for layer, (keys, values, *_) in enumerate(cache):
        assert keys is not None and values is not None, "a prefilled cache holds every layer"  # noqa: PT018
        copy.update(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1), layer)
    return copy


def context_length(model: PreTrainedModel) -> int:
    """The longest text the model takes, prompt and completion together."""
    config = model.config.get_text_config()
    return getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None) or 1 << 20


def end_tokens(model: PreTrainedModel) -> frozenset[int]:
    """The token ids that end a text, by the model's generation settings."""
    ends = model.generation_config.eos_token_id if model.generation_config else model.config.eos_token_id
    if ends is None:
        return frozenset()
    return frozenset([ends] if isinstance(ends, int) else ends)
