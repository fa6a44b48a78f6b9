"""What generating and reading text costs on this hardware: measured on a few requests, foretold for many.

A batch takes as many decoding steps as its longest completion. So the time of a call is a sum of so much a step
(whatever the batch), so much a token, a prompt token and a request; the four are fitted to metered calls. Reading
drafts and traces takes so much a token.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field

import numpy as np
from scipy.optimize import nnls

from cca.engines.engine import Completion, GreedyPath, Progress, Request, StopRule, Tokens
from cca.engines.hf import HFEngine, decoding_order, shared_length


@dataclass(frozen=True)
class Work:
    """What there is to decode; expectations, so not whole numbers."""

    steps: float = 0.0
    tokens: float = 0.0
    prompt_tokens: float = 0.0
    requests: float = 0.0
    read: float = 0.0
    """Tokens of texts that are there already, prompts included, in a forward pass that generates nothing."""

    def __add__(self, other: Work) -> Work:
        return Work(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def times(self, factor: float) -> Work:
        return Work(*(factor * part for part in astuple(self)))


@dataclass(frozen=True)
class Call:
    """One metered call of the engine."""

    lengths: tuple[int, ...]
    work: Work
    seconds: float


@dataclass(frozen=True)
class Speed:
    """Seconds of each part of a `Work`, in its order."""

    per: tuple[float, float, float, float, float]

    def seconds(self, work: Work) -> float:
        return sum(cost * amount for cost, amount in zip(self.per, astuple(work), strict=True))

    @staticmethod
    def fitted(calls: Sequence[Call], readings: Sequence[Call] = ()) -> Speed:
        """Non-negative least squares of relative errors: a short call counts like a long one.

        Reading takes what all ``readings`` took, by the token: each is one kind of pass.
        """
        seconds = np.array([call.seconds for call in calls])
        amounts = np.array([astuple(call.work)[:4] for call in calls])
        costs, _ = nnls(amounts / seconds[:, None], np.ones(len(calls)))
        read = sum(call.work.read for call in readings)
        a_token = sum(call.seconds for call in readings) / read if read else 0.0
        return Speed((*map(float, costs), a_token))  # type: ignore[arg-type]


@dataclass
class MeteredEngine(HFEngine):
    """Keeps a `Call` of everything it completes, and of everything it reads."""

    calls: list[Call] = field(default_factory=list)
    readings: list[Call] = field(default_factory=list)

    def complete(
        self,
        requests: Sequence[Request],
        max_new_tokens: int,
        stop: StopRule | None = None,
        progress: Progress | None = None,
        shared: int | None = None,
    ) -> list[Completion]:
        began = time.perf_counter()
        completions = super().complete(requests, max_new_tokens, stop, progress, shared)
        seconds = time.perf_counter() - began
        if requests:
            lengths = tuple(len(completion.token_ids) for completion in completions)
            prefixes = [len(request.prefix) for request in requests]
            order = decoding_order(requests)
            batches = [order[i : i + self.batch_size] for i in range(0, len(order), self.batch_size)]
            steps = sum(max(lengths[index] for index in batch) for batch in batches)
            if shared is None:
                shared = shared_length([request.prefix for request in requests], self.model)
            prompts = sum(prefixes) - shared * (len(requests) - 1)
            self.calls.append(Call(lengths, Work(steps, sum(lengths), prompts, len(requests)), seconds))
        return completions

    def greedy_paths(
        self, texts: Sequence[tuple[Tokens, Tokens]], shared: int | None = None
    ) -> list[GreedyPath]:
        began = time.perf_counter()
        paths = super().greedy_paths(texts, shared)
        seconds = time.perf_counter() - began
        if texts:
            if shared is None:
                shared = shared_length([prefix for prefix, _ in texts], self.model)
            read = sum(len(prefix) + len(text) for prefix, text in texts) - shared * (len(texts) - 1)
            lengths = tuple(len(text) for _, text in texts)
            self.readings.append(Call(lengths, Work(read=read), seconds))
        return paths


def expected_work(count: float, lengths: Sequence[int], prompt_tokens: float, batch_size: int) -> Work:
    """Completing ``count`` requests at once, whose completions are as long as ``lengths`` are.

    ``prompt_tokens`` is the mean of a request.
    """
    if not lengths or count <= 0:
        return Work()
    full, rest = divmod(count, batch_size)
    steps = full * expected_longest(lengths, batch_size)
    if rest:
        steps += min(1.0, rest) * expected_longest(lengths, max(1.0, rest))
    return Work(steps, count * sum(lengths) / len(lengths), count * prompt_tokens, count)


def expected_longest(lengths: Sequence[int], draws: float) -> float:
    """The mean of the longest of ``draws`` completions drawn from ``lengths``."""
    ordered, total = sorted(lengths), len(lengths)
    below = [(place / total) ** draws for place in range(total + 1)]
    return sum(length * (below[place + 1] - below[place]) for place, length in enumerate(ordered))
