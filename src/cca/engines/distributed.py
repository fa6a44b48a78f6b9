"""The Hugging Face engine over the processes of a run: each decodes its share of the batches, all get all results.

Each process gets whole batches of one process's order, so that results are the same up to rounding. A call needs as
many batches as there are processes to keep them all busy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, TypeVar

from cca import distributed
from cca.engines.decoding import context_length
from cca.engines.engine import Completion, GreedyPath, Progress, Request, StopRule, Tokens
from cca.engines.hf import HFEngine, check_room, decoding_order, reading_order, shared_length

T = TypeVar("T")


@dataclass
class RankedEngine(HFEngine):
    together: ClassVar[bool] = False

    def complete(
        self,
        requests: Sequence[Request],
        max_new_tokens: int,
        stop: StopRule | None = None,
        progress: Progress | None = None,
        shared: int | None = None,
    ) -> list[Completion]:
        """Complete every request. Raises CcaError for an empty prefix or one that leaves no room for a token."""
        check_room(requests, context_length(self.model), max_new_tokens)
        before, reported = self.generated_tokens, 0
        if shared is None:
            shared = shared_length([request.prefix for request in requests])

        def tell(done: int) -> None:
            nonlocal reported
            reported += done
            if progress:
                progress(done)

        def work(own: list[Request]) -> list[Completion]:
            return HFEngine.complete(self, own, max_new_tokens, stop, tell, shared)

        rows = self._dealt(requests, decoding_order(requests), work)
        completions = [Completion(tuple(row["token_ids"]), row["finished"]) for row in rows]
        self.generated_tokens = before + sum(len(completion.token_ids) for completion in completions)
        if progress:
            progress(len(requests) - reported)
        return completions

    def greedy_paths(self, texts: Sequence[tuple[Tokens, Tokens]], shared: int | None = None) -> list[GreedyPath]:
        if shared is None:
            shared = shared_length([prefix for prefix, _ in texts])
        rows = self._dealt(texts, reading_order(texts), lambda own: HFEngine.greedy_paths(self, own, shared))
        return [GreedyPath(**{name: tuple(values) for name, values in row.items()}) for row in rows]

    def _dealt(
        self, items: Sequence[T], order: Sequence[int], work: Callable[[list[T]], Sequence[Any]]
    ) -> list[dict[str, Any]]:
        """The results of ``work`` for all ``items`` as rows, each process doing its share of the batches."""
        size = min(distributed.all_gather_json(self.batch_size))  # one process may have run out of memory
        batches = [order[start : start + size] for start in range(0, len(order), size)]
        own = [index for batch in batches[distributed.rank() :: distributed.size()] for index in batch]
        made = work([items[index] for index in own]) if own else []
        shares = distributed.all_gather_json([(index, asdict(result)) for index, result in zip(own, made, strict=True)])
        results = dict(row for share in shares for row in share)
        return [results[index] for index in range(len(items))]
