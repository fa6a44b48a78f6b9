"""What a stage asks of a text generator: token ids in, token ids out.

An engine knows nothing of problems, judges or tokenizers. It completes prefixes of token ids, greedily or by
seeded sampling, and tells which token the model would have chosen along a given text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from cca.errors import CcaError

Tokens = tuple[int, ...]
StopRule = Callable[[Sequence[int]], bool]
"""Told the completion so far, says whether nothing that follows can matter."""
Progress = Callable[[int], None]
"""Told how many more requests are done."""


@dataclass(frozen=True)
class Request:
    """One text to complete. ``temperature`` 0 is greedy; ``seed`` alone decides what is sampled.

    The last ``written`` tokens of the prefix are the completion's own already: they count towards its longest length
    and the stop rule sees them. What comes back is what follows them.
    """

    prefix: Tokens
    temperature: float = 0.0
    seed: int = 0
    written: int = 0

    def begun(self, max_new_tokens: int) -> Tokens:
        """The part that is written. Raises CcaError when nothing may follow it."""
        if not 0 <= self.written < min(max_new_tokens, len(self.prefix)):
            raise CcaError(
                f"expected fewer written tokens than the longest completion ({max_new_tokens}) and the prefix "
                f"({len(self.prefix)}), got {self.written}"
            )
        return self.prefix[len(self.prefix) - self.written :]


@dataclass(frozen=True)
class Completion:
    """The new tokens (an end-of-text token included when one came) and whether the text ended by itself."""

    token_ids: Tokens
    finished: bool


@dataclass(frozen=True)
class GreedyPath:
    """Along ``prefix + text``: the greedy token after each ``text[:k]`` (k = 0 ... len(text) - 1) and by how many
    logits it leads the runner-up.

    ``second`` are those runners-up, ``log_probs`` the natural log of the probability of the text's own tokens at
    temperature 1; both are empty where an engine cannot tell.
    """

    token_ids: Tokens
    margins: tuple[float, ...]
    second: Tokens = ()
    log_probs: tuple[float, ...] = ()


class Engine(Protocol):
    """Makers of completions. Results come in the order of the requests, whatever the batching."""

    generated_tokens: int
    """Tokens generated so far, for the report."""

    @property
    def parallel_chunks(self) -> int:
        """How many calls from different threads it serves side by side."""
        ...

    @property
    def reads_cheaply(self) -> bool:
        """Whether `greedy_paths` of a text takes much less time than writing it, so that drafts are worth reading."""
        ...

    def complete(
        self,
        requests: Sequence[Request],
        max_new_tokens: int,
        stop: StopRule | None = None,
        progress: Progress | None = None,
    ) -> list[Completion]: ...

    def greedy_paths(self, texts: Sequence[tuple[Tokens, Tokens]]) -> list[GreedyPath]:
        """For each (prefix, text), the greedy token before each token of the text: one forward pass, no decoding."""
        ...

    def close(self) -> None:
        """End what the engine started beside this process; it is not used afterwards."""
        ...


def request_seed(*parts: object) -> int:
    """A 63-bit seed made of any values, the same on every machine: (run seed, problem id, sample number)."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
