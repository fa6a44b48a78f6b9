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
    logits it leads the runner-up, beyond what rounding in the model's dtype may have moved.

    ``second`` are those runners-up, ``log_probs`` the natural log of the probability of the text's own tokens at
    temperature 1; both are empty where an engine cannot tell.
    """

    token_ids: Tokens
    margins: tuple[float, ...]
    second: Tokens = ()
    log_probs: tuple[float, ...] = ()


class Engine(Protocol):
    """A maker of completions. Results come in the order of the requests, whatever the batching."""

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
        """End what the engine started next to this process; it is not used afterwards."""
        ...


def request_seed(*parts: object) -> int:
    """A 63-bit seed made of any values, the same on every machine: (run seed, problem id, sample number)."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@dataclass(frozen=True)
class Draft:
    """A completion by the base. ``read`` are the greedy tokens that the base's own forward pass finds along it."""

    prefix: Tokens
    completion: Completion
    read: Tokens

    def left_at(self, path: GreedyPath) -> int | None:
        """The first place where a model whose ``path`` this is leaves the draft; None when it does not."""
        text = self.completion.token_ids
        places = zip(path.token_ids, text, self.read, strict=True)
        return next((k for k, (token, written, read) in enumerate(places) if token not in (written, read)), None)


def make_drafts(engine: Engine, prefixes: Sequence[Tokens], completions: Sequence[Completion]) -> list[Draft]:
    """Drafts of what the engine's model completed as it stands."""
    texts = [(prefix, made.token_ids) for prefix, made in zip(prefixes, completions, strict=True)]
    paths = engine.greedy_paths(texts)
    return [
        Draft(prefix, completion, path.token_ids)
        for prefix, completion, path in zip(prefixes, completions, paths, strict=True)
    ]


def complete_drafts(
    engine: Engine, drafts: Sequence[Draft], max_new_tokens: int, stop: StopRule | None = None
) -> list[Completion]:
    """The greedy completions of the drafts' prefixes by the engine's model as it stands.

    ``max_new_tokens`` and ``stop`` must be those the drafts were made with.
    """
    paths = engine.greedy_paths([(draft.prefix, draft.completion.token_ids) for draft in drafts])
    left = {
        number: place
        for number, (draft, path) in enumerate(zip(drafts, paths, strict=True))
        if (place := draft.left_at(path)) is not None
    }
    requests = [
        Request(drafts[number].prefix + drafts[number].completion.token_ids[:place], written=place)
        for number, place in left.items()
    ]
    made = iter(engine.complete(requests, max_new_tokens, stop) if requests else [])
    return [
        _joined(draft.completion.token_ids[: left[number]], next(made)) if number in left else draft.completion
        for number, draft in enumerate(drafts)
    ]


def _joined(kept: Tokens, rest: Completion) -> Completion:
    return Completion(kept + rest.token_ids, rest.finished)
