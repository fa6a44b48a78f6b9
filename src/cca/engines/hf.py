"""The Hugging Face engine: batched decoding of token-id prefixes with any causal language model.

Notable decisions:

* Sampling follows the request's own seed (`cca.engines.decoding`), so batch order and batch size do not change what
  is sampled; only the kernels' rounding can.
* Requests are sorted by length; rows that have ended leave the batch, and others take their place.
* A prefix that all requests share (few-shot examples) is computed once, and held once (`cca.engines.rows`).
* Each shortcut is used where a rehearsal on the model shows that it changes nothing.
* A model with two sets of rotary factors (longrope) takes the set by the longest text of a batch. So texts on the two
  sides of the switch are in batches of their own, and one that crosses it is computed again from its beginning.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar

import torch
from transformers import PreTrainedModel

from cca import distributed
from cca.engines.decoding import context_length, decode, end_tokens, greedy_path
from cca.engines.engine import Completion, GreedyPath, Progress, Request, StopRule, Tokens
from cca.engines.rehearsal import rehearse, rope_switch
from cca.engines.rows import Rows, Shortcuts, make_rows, row_bytes
from cca.errors import CcaError
from cca.models.anatomy.anatomy import Anatomy, anatomy_of
from cca.models.forward.prefixes import common_prefix
from cca.models.memory import available_memory, halving, is_out_of_memory

READ_VALUES = 1 << 26
"""Logits that reading may hold at once: a vocabulary's for every token of every text."""
MEMORY = 0.5
"""Share of the free memory that the rows of a batch may take."""
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
    def anatomy(self) -> Anatomy | None:
        """Where attention is; None for a model that cannot be read."""
        try:
            return anatomy_of(self.model)
        except CcaError:
            return None

    @cached_property
    def shortcuts(self) -> Shortcuts:
        """The shortcuts that are exact on this model. Raises CcaError for one that cannot be decoded."""
        try:
            found, note = rehearse(self.model, self.anatomy)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            found = Shortcuts(direct=False, share=False)
            note = "too little memory for a rehearsal; prefixes are not shared"
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
        cuts = [max(0, switch + 1 - len(prefix)) for prefix, _ in texts]  # tokens that the short factors decide
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
        shared = self._shared([request.prefix for request in requests], shared)
        results: dict[int, Completion] = {}
        budgets = [min(longest, room - len(request.prefix) + request.written) for request in requests]
        used = drawn or [0] * len(requests)
        order = decoding_order(requests)

        def count(tokens: int) -> None:
            self.generated_tokens += tokens

        def work(size: int) -> None:
            rows = self._rows(requests[0].prefix[:shared])
            left = [(i, requests[i], budgets[i], used[i]) for i in order if i not in results]
            for index, made in decode(rows, left, shared, size, end_tokens(self.model), stop, self.model.device, count):
                results[index] = made
                if progress:
                    progress(1)

        rows = zip(requests, budgets, strict=True)
        tokens = max(len(request.prefix) + budget - request.written for request, budget in rows)
        self._halving("generation", len(requests), tokens - (shared if self.shortcuts.direct else 0), work)
        return [results[index] for index in range(len(requests))]

    def _read(self, texts: Sequence[tuple[Tokens, Tokens]], shared: int | None) -> list[GreedyPath]:
        if not texts:
            return []
        shared = self._shared([prefix for prefix, _ in texts], shared)
        paths: dict[int, GreedyPath] = {}
        vocabulary = self.model.config.get_text_config().vocab_size

        def work(size: int) -> None:
            rows = self._rows(texts[0][0][:shared])
            order = [index for index in reading_order(texts) if index not in paths]
            while order:
                longest = max(1, *(len(texts[index][1]) for index in order[:size]))
                count = max(1, min(size, READ_VALUES // (longest * vocabulary)))
                numbers, order = order[:count], order[count:]
                own = [(texts[i][0][shared:], texts[i][1]) for i in numbers]
                for number, logits in zip(numbers, rows.read(own), strict=True):
                    paths[number] = greedy_path(logits, texts[number][1], self.model.dtype)

        self._halving("reading texts", len(texts), max(len(prefix) + len(text) for prefix, text in texts), work)
        return [paths[index] for index in range(len(texts))]

    def _shared(self, prefixes: Sequence[Tokens], asked: int | None) -> int:
        """Tokens at the beginning of all prefixes to compute once."""
        if not self.shortcuts.share:
            return 0
        return shared_length(prefixes) if asked is None else asked

    def _rows(self, prefix: Tokens) -> Rows:
        """Rows behind a prefix, none of them there yet."""
        return make_rows(self.model, self.anatomy, self.shortcuts, prefix)

    def _halving(self, what: str, count: int, tokens: int, work: Callable[[int], None]) -> None:
        """``work`` on ``count`` rows with a batch of such rows, of ``tokens`` each, as memory holds, halved for good
        once it did not."""

        def attempt(size: int) -> int:
            with torch.inference_mode():
                work(size)
            return size

        size = self._rows_that_fit(count, tokens) if self.shortcuts.batch else 1
        done = halving(what, size, attempt, self.tell, self.together)
        if done < size:
            self.batch_size = done

    def _rows_that_fit(self, count: int, tokens: int) -> int:
        """Of ``count`` rows, those of a batch: on a CPU nothing raises when memory ends, so it is asked before."""
        wanted = min(count, self.batch_size)
        each = row_bytes(self.model, self.anatomy if self.shortcuts.direct else None, tokens) / MEMORY
        fit = min(wanted, int(available_memory(self.model.device, math.ceil(wanted * each)) / each))
        fit = max(1, min(distributed.all_gather_json(fit)) if self.together else fit)
        if fit < wanted:
            self.tell(f"engine: memory holds {fit} texts of {tokens} tokens at once, not {wanted}")
        return fit


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


def shared_length(prefixes: Sequence[Tokens]) -> int:
    """Length of the prefix to compute once; 0 where it is short."""
    shared = common_prefix(prefixes) if len(prefixes) > 1 else 0
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
