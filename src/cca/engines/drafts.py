"""Greedy completions by an edited model, from those that the base wrote: read, and written anew only where they part.

An edit of a sliver of the weights leaves most texts as they were. So what the base wrote is a draft, verified as in
speculative decoding (arXiv 2211.17192): one forward pass along it tells the edited model's greedy token at every
place. Up to the first place where that is another one the draft is the edited model's own text; from there it is
completed. Where no place differs nothing is generated.

The pass and the decoding round differently, so a near-tie may fall one way in the one and the other way in the other.
The base therefore reads its own drafts too: a token stands where the edited model agrees with either the draft or
the base's reading of it. What rounding alone would tip is thus no change, in any dtype, and what the edit leaves
alone comes back as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cca.engines.engine import Completion, Engine, GreedyPath, Request, StopRule, Tokens


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
        return next(
            (k for k, (token, written, read) in enumerate(places) if token not in (written, read)), None
        )


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
        _joined(draft.completion.token_ids[: left[number]], next(made))
        if number in left
        else draft.completion
        for number, draft in enumerate(drafts)
    ]


def _joined(kept: Tokens, rest: Completion) -> Completion:
    return Completion(kept + rest.token_ids, rest.finished)
