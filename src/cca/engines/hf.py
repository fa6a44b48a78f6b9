"""The Hugging Face engine: batched decoding of token-id prefixes with any causal language model.

Notable decisions:

* Sampling follows the request's own seed (`cca.engines.decoding`), so batch order and batch size do not change what
  is sampled; only the kernels' rounding can.
* Requests are sorted by length, padded on the left within a batch, and rows that have ended leave the batch.
* A prefix that all requests share (few-shot examples) is computed once.
* Cache, batches and shared prefix are used where a rehearsal on the model shows that they change nothing.
* A model with two sets of rotary factors (longrope) takes the set by the longest text of a batch. So texts on the two
  sides of the switch are in batches of their own, and one that crosses it is computed again from its beginning.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar

import torch
from transformers import PreTrainedModel

from cca.engines.decoding import STOP_EVERY as STOP_EVERY
from cca.engines.decoding import Decoding, greedy_path, prefill, read_batch
from cca.engines.decoding import context_length as context_length
from cca.engines.decoding import end_tokens as end_tokens
from cca.engines.engine import Completion, GreedyPath, Progress, Request, StopRule, Tokens
from cca.engines.rehearsal import Shortcuts, has_window, rehearse, rope_switch
from cca.errors import CcaError
from cca.models.memory import halving, is_out_of_memory

READ_VALUES = 1 << 29
"""Logits that reading may hold at once: a vocabulary's for every token of every text."""
MIN_SHARED = 16
"""Shared prefixes shorter than this are not worth a cache of their own."""


@dataclass
class HFEngine:
    model: PreTrainedModel
    batch_size: int = 64
    tell: Callable[[str], None] = warnings.warn
    """Told when memory ran out and the batch was halved, and which shortcuts the model does not allow."""
    generated_tokens: int = field(default=0, init=False)
    parallel_chunks: int = field(default=1, init=False)
    reads_cheaply: bool = field(default=True, init=False)
    together: ClassVar[bool] = True
    """True where all processes of a run, if there are several, decode the same batches side by side."""

    @cached_property
    def shortcuts(self) -> Shortcuts:
        """The shortcuts that are exact on this model. Raises CcaError for one that cannot be decoded."""
        try:
            found, note = rehearse(self.model)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            found, note = Shortcuts(share=False), "too little memory for a rehearsal; prefixes are not shared"
        if note:
            self.tell(f"engine: {note}")
        return found

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
        limit, switch = context_length(self.model), rope_switch(self.model)
        check_room(requests, limit, max_new_tokens)
        longest = min(max_new_tokens, limit)
        if switch is None:
            return self._complete(requests, longest, limit, stop, progress, shared)
        short = [i for i, request in enumerate(requests) if len(request.prefix) <= switch]
        own = [requests[i] for i in short]
        first = dict(zip(short, self._complete(own, longest, switch + 1, stop, None, 0), strict=True))
        rest: list[int] = []
        for number, request in enumerate(requests):
            done = first.get(number)
            crossed = done and not done.finished and len(done.token_ids) + request.written < longest
            if done is None or (crossed and len(request.prefix) + len(done.token_ids) < limit):
                rest.append(number)
        begun = [first[i].token_ids if i in first else () for i in rest]
        again = [
            replace(requests[i], prefix=requests[i].prefix + own, written=requests[i].written + len(own))
            for i, own in zip(rest, begun, strict=True)
        ]
        made = self._complete(again, longest, limit, stop, None, 0, [len(own) for own in begun])
        for number, own, last in zip(rest, begun, made, strict=True):
            first[number] = Completion(own + last.token_ids, last.finished)
        if progress:
            progress(len(requests))
        return [first[number] for number in range(len(requests))]

    def greedy_paths(self, texts: Sequence[tuple[Tokens, Tokens]], shared: int | None = None) -> list[GreedyPath]:
        switch = rope_switch(self.model)
        if switch is None:
            return self._read(texts, shared)
        cuts = [max(0, switch + 1 - len(prefix)) for prefix, _ in texts]  # tokens told by the short factors
        short = iter(self._read([(p, t[:c]) for (p, t), c in zip(texts, cuts, strict=True) if t[:c]], 0))
        long = iter(self._read([(p + t[:c], t[c:]) for (p, t), c in zip(texts, cuts, strict=True) if t[c:]], 0))
        return [
            _joined(next(short) if text[:cut] else GreedyPath((), ()), next(long) if text[cut:] else None)
            for (_, text), cut in zip(texts, cuts, strict=True)
        ]

    def close(self) -> None:
        """Nothing to end: no process was started."""

    def _complete(
        self,
        requests: Sequence[Request],
        longest: int,
        room: int,
        stop: StopRule | None,
        progress: Progress | None,
        shared: int | None,
        drawn: Sequence[int] | None = None,
    ) -> list[Completion]:
        """Complete the requests up to ``longest`` tokens each, ``room`` with the prefix."""
        if not requests:
            return []
        if shared is None:
            shared = shared_length([request.prefix for request in requests], self.model)
        shared = shared if self.shortcuts.share else 0
        results: dict[int, Completion] = {}
        with torch.inference_mode():
            prefix_cache = prefill(self.model, requests[0].prefix[:shared]) if shared else None

            def decode(indices: Sequence[int]) -> None:
                own = [requests[index] for index in indices]
                batch = Decoding(self.model, own, shared, prefix_cache, self.shortcuts.cache)
                budgets = [min(longest, room - len(request.prefix) + request.written) for request in own]
                used = [drawn[index] if drawn else 0 for index in indices]
                made = dict(batch.run(budgets, stop, used))
                results.update((indices[row], completion) for row, completion in made.items())
                self.generated_tokens += sum(len(completion.token_ids) for completion in made.values())
                if progress:
                    progress(len(indices))

            self._by_batches("generation", decoding_order(requests), decode)
        return [results[index] for index in range(len(requests))]

    def _read(self, texts: Sequence[tuple[Tokens, Tokens]], shared: int | None) -> list[GreedyPath]:
        if not texts:
            return []
        if shared is None:
            shared = shared_length([prefix for prefix, _ in texts], self.model)
        shared = shared if self.shortcuts.share else 0
        paths: dict[int, GreedyPath] = {}
        with torch.inference_mode():
            prefix_cache = prefill(self.model, texts[0][0][:shared]) if shared else None

            def read(indices: Sequence[int]) -> None:
                longest = max(len(texts[i][1]) for i in indices)
                size = max(1, READ_VALUES // (longest * self.model.config.get_text_config().vocab_size))
                for start in range(0, len(indices), size):
                    numbers = indices[start : start + size]
                    own = [texts[i] for i in numbers]
                    for number, logits in zip(numbers, read_batch(self.model, own, shared, prefix_cache), strict=True):
                        paths[number] = greedy_path(logits, texts[number][1], self.model.dtype)

            self._by_batches("reading texts", reading_order(texts), read)
        return [paths[index] for index in range(len(texts))]

    def _by_batches(self, what: str, order: Sequence[int], work: Callable[[Sequence[int]], None]) -> None:
        """``work`` on the indices in ``order``, a batch at a time; batches stay halved once memory ran out."""
        start = 0
        while start < len(order):

            def attempt(size: int, start: int = start) -> int:
                work(order[start : start + size])
                return size

            size = min(self.batch_size if self.shortcuts.batch else 1, len(order) - start)
            done = halving(what, size, attempt, self.tell, self.together)
            if done < size:
                self.batch_size = done
            start += done


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
    """Length of the prefix to compute once; 0 where it is short or padding would upset a window of attention."""
    if len(prefixes) < 2 or has_window(model):
        return 0
    first, last = min(prefixes), max(prefixes)
    shortest = min(map(len, prefixes)) - 1  # at least one token stays outside
    shared = next((i for i in range(shortest) if first[i] != last[i]), shortest)
    return shared if shared >= MIN_SHARED else 0


def _joined(first: GreedyPath, second: GreedyPath | None) -> GreedyPath:
    if second is None:
        return first
    return GreedyPath(
        first.token_ids + second.token_ids,
        first.margins + second.margins,
        first.second + second.second,
        first.log_probs + second.log_probs,
    )
