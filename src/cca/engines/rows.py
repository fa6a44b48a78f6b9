"""Rows of text that a transformers model decodes together: token ids in, logits of each row's next token out.

Two ways to the same numbers, behind a prefix that all rows share and that was computed once:

* `DirectRows` answers inside the attention function (`cca.models.forward`): one copy of the prefix serves all rows,
  query heads read the key heads they have without repeating them, windows and soft caps see true positions. Rows may
  be added while others decode.
* `CachedRows` serves models whose attention does not go through transformers' interface. They read a cache in which
  the prefix is copied to every row; one without any cache reads the whole text again for each token.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from cca.engines.engine import Tokens
from cca.models.anatomy.anatomy import Anatomy
from cca.models.forward.attention import AttentionHooks, hooked_attention
from cca.models.forward.one_token_attention import OneTokenPrefixes
from cca.models.forward.prefix_state import OwnPrefixes, SharedPrefix
from cca.models.forward.prefixes import logits_at, padded, prefill, prefixed, project_only
from cca.models.precision import wide

ROOM = 32
"""Tokens by which the room of rows grows at once."""
SCORES = 1 << 25
"""Attention scores that one forward pass behind a shared prefix may hold."""


class Rows(Protocol):
    grows: bool
    """True where rows may be added while others decode."""

    def add(self, texts: Sequence[Tokens]) -> Tensor:
        """(N, V) logits, at least float32, after each of these texts, which stand behind the shared prefix."""
        ...

    def step(self, tokens: Tensor) -> Tensor:
        """(B, V) logits after one more token (B,) of every row."""
        ...

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows alone, in this order."""
        ...

    def read(self, texts: Sequence[tuple[Tokens, Tokens]]) -> Iterator[Tensor]:
        """(T, V) logits before each of the T tokens of every (text, what follows), behind the shared prefix."""
        ...


@dataclass(frozen=True)
class Shortcuts:
    """The shortcuts that are exact on a model, as `cca.engines.rehearsal` finds them."""

    direct: bool = True
    """Keys and values of earlier tokens are read inside the attention function."""
    cache: bool = True
    """Keys and values of earlier tokens are kept."""
    batch: bool = True
    """Several texts are decoded together."""
    share: bool = True
    """A prefix that all texts have in common is computed once."""


def row_bytes(model: PreTrainedModel, anatomy: Anatomy | None, tokens: int) -> int:
    """Bytes that one row of so many tokens takes while it decodes: its keys and values, and two sets of logits."""
    config = model.config.get_text_config()
    if anatomy is None:
        features = 2 * config.hidden_size * config.num_hidden_layers
    else:
        features = sum(2 * layer.n_kv_heads * layer.head_dim for layer in anatomy.layers)
    return tokens * features * model.dtype.itemsize + config.vocab_size * (model.dtype.itemsize + 8)


def make_rows(model: PreTrainedModel, anatomy: Anatomy | None, shortcuts: Shortcuts, prefix: Tokens) -> Rows:
    """Rows behind ``prefix``, none of them there yet; ``anatomy`` is needed for direct ones."""
    if shortcuts.direct and anatomy is not None:
        return DirectRows(model, anatomy, prefix)
    return CachedRows(model, prefix, shortcuts.cache)


class DirectRows:
    grows = True

    def __init__(self, model: PreTrainedModel, anatomy: Anatomy, prefix: Tokens = ()) -> None:
        self.model, self.anatomy = model, anatomy
        self.shared: SharedPrefix | None = prefill(model, anatomy, prefix) if prefix else None
        self.heads = max(layer.n_heads for layer in anatomy.layers)
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        """Of each row's own tokens by layer, (KV, B, room, D)."""
        self.lengths: list[int] = []

    def add(self, texts: Sequence[Tokens]) -> Tensor:
        logits = []
        for part in self._parts([len(text) for text in texts]):
            tokens, lengths = padded([texts[row] for row in part], self.model.device)
            with hooked_attention(self.model, self.anatomy, capture=True) as hooks:
                logits.append(wide(logits_at(self.model, self.anatomy, tokens, lengths, shared=self.shared)))
                self._append(hooks, [len(texts[row]) for row in part])
        return torch.cat(logits)

    def step(self, tokens: Tensor) -> Tensor:
        longest = max(self.lengths)
        if longest == self.keys[0].shape[2]:
            self._widen(longest + ROOM)
        lengths, count = torch.tensor(self.lengths, device=tokens.device), len(self.lengths)
        rows = torch.arange(count, device=tokens.device)
        keys, values = (tuple(x[:, :, :longest] for x in side) for side in (self.keys, self.values))
        prefixes = OneTokenPrefixes(self.model, self.shared, OwnPrefixes(keys, values, lengths, tuple(range(count))))
        with hooked_attention(self.model, self.anatomy, prefixes=prefixes, capture=True) as hooks:
            logits = self.model(input_ids=tokens[:, None], use_cache=False).logits[:, -1]
            for layer, (k, v) in _captured(hooks):
                at = rows.to(k.device), lengths.to(k.device)
                self.keys[layer][:, *at] = k[:, :, 0].transpose(0, 1)
                self.values[layer][:, *at] = v[:, :, 0].transpose(0, 1)
        self.lengths = [length + 1 for length in self.lengths]
        return wide(logits)

    def keep(self, rows: Sequence[int]) -> None:
        if len(rows) < len(self.lengths):
            self.lengths = [self.lengths[row] for row in rows]
            for side in (self.keys, self.values):
                side[:] = [x[:, torch.tensor(rows, device=x.device, dtype=torch.long)] for x in side]

    def read(self, texts: Sequence[tuple[Tokens, Tokens]]) -> Iterator[Tensor]:
        for part in self._parts([len(text) + len(rest) for text, rest in texts]):
            own = [texts[row] for row in part]
            tokens, _ = padded([text + rest[:-1] for text, rest in own], self.model.device)
            rows = [row for row, (_, rest) in enumerate(own) for _ in rest]
            places = [len(text) - 1 + k for text, rest in own for k in range(len(rest))]
            with prefixed(self.model, self.anatomy, shared=self.shared):
                handle = project_only(self.model, torch.tensor(rows), torch.tensor(places))
                try:
                    logits = self.model(input_ids=tokens, use_cache=False).logits[:, -1]
                finally:
                    handle.remove()
            for found in logits.split([len(rest) for _, rest in own]):
                yield wide(found)  # a text at a time: vocabularies are large

    def _parts(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Consecutive rows whose attention scores fit into memory: those behind a prefix are held whole."""
        part: list[int] = []
        for row, length in enumerate(lengths):
            longest = max(length, *(lengths[other] for other in part)) if part else length
            keys = longest + (self.shared.length if self.shared else 0)
            if part and self.shared and (len(part) + 1) * self.heads * longest * keys > SCORES:
                yield part
                part = []
            part.append(row)
        if part:
            yield part

    def _append(self, hooks: AttentionHooks, lengths: Sequence[int]) -> None:
        """Take the captured keys and values (B, KV, T, D) of new rows with these lengths."""
        self._widen(max(lengths))
        for layer, sides in _captured(hooks):
            for held, x in zip((self.keys, self.values), sides, strict=True):
                new = x.transpose(0, 1)
                if layer == len(held):
                    held.append(new.contiguous())
                    continue
                room = held[layer].shape[2]
                held[layer] = torch.cat([held[layer], _with_room(new, room)], dim=1)
        self.lengths += lengths

    def _widen(self, room: int) -> None:
        for side in (self.keys, self.values):
            side[:] = [_with_room(x, max(room, x.shape[2])) for x in side]


def _captured(hooks: AttentionHooks) -> list[tuple[int, tuple[Tensor, Tensor]]]:
    assert hooks.captured is not None
    return sorted(hooks.captured.items())


def _with_room(x: Tensor, room: int) -> Tensor:
    """(KV, B, S, D) -> (KV, B, room, D), zeros behind."""
    return torch.nn.functional.pad(x, (0, 0, 0, room - x.shape[2])) if room > x.shape[2] else x


class CachedRows:
    grows = False

    def __init__(self, model: PreTrainedModel, prefix: Tokens = (), cached: bool = True) -> None:
        self.model, self.cached, self.shared = model, cached, 0
        self.prefix: DynamicCache | None = None
        if prefix:
            self.add([prefix])
            self.prefix, self.shared = self.cache, len(prefix)

    def add(self, texts: Sequence[Tokens]) -> Tensor:
        self.cache = self._cache(len(texts)) if self.cached else None
        self._lay_out(texts)
        return self._forward(1)[:, -1]

    def step(self, tokens: Tensor) -> Tensor:
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), 1)], dim=1)
        after = self.positions[:, -1:] + 1
        if self.cache is not None:
            self.tokens, self.positions = tokens[:, None], after
        else:
            self.tokens = torch.cat([self.tokens, tokens[:, None]], dim=1)
            self.positions = torch.cat([self.positions, after], dim=1)
        return self._forward(1)[:, -1]

    def keep(self, rows: Sequence[int]) -> None:
        if not rows or len(rows) == len(self.mask):
            return
        places = torch.tensor(rows, device=self.mask.device, dtype=torch.long)
        if self.cache is not None:
            self.cache.batch_select_indices(places)
        self.tokens, self.mask, self.positions = self.tokens[places], self.mask[places], self.positions[places]

    def read(self, texts: Sequence[tuple[Tokens, Tokens]]) -> Iterator[Tensor]:
        self.cache = self._cache(len(texts)) if self.shared else None
        self._lay_out([text + rest[:-1] for text, rest in texts])
        longest = max(len(rest) for _, rest in texts)
        logits = self._forward(longest)  # rows end together, so every text is in the last `longest` positions
        for row, (_, rest) in enumerate(texts):
            yield logits[row, longest - len(rest) :]

    def _cache(self, rows: int) -> DynamicCache:
        """A cache of ``rows`` rows that all begin with the prefix; the prefix's own is left as it was."""
        if self.prefix is None:
            return DynamicCache(config=self.model.config)
        copy = DynamicCache()
        for layer, (keys, values, *_) in enumerate(self.prefix):
            assert keys is not None and values is not None, "a prefilled cache holds every layer"  # noqa: PT018
            copy.update(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1), layer)
        return copy

    def _lay_out(self, texts: Sequence[Tokens]) -> None:
        """Token ids (B, T) padded at the left, the mask (B, shared + T) that is 0 on the padding, the positions."""
        longest = max(map(len, texts))
        device = self.model.device
        self.tokens = torch.tensor([(0,) * (longest - len(text)) + tuple(text) for text in texts], device=device)
        ones = [[1] * self.shared + [0] * (longest - len(text)) + [1] * len(text) for text in texts]
        self.mask = torch.tensor(ones, device=device)
        self.positions = (self.mask.cumsum(dim=-1) - 1).clamp_min(0)[:, self.shared :]

    def _forward(self, keep: int) -> Tensor:
        """(B, keep, V): logits of the last ``keep`` positions, at least float32.

        Arguments that the model's own code does not know are left out; one without ``logits_to_keep`` gives all.
        """
        given = {
            "attention_mask": self.mask, "position_ids": self.positions, "logits_to_keep": keep,
            "use_cache": self.cache is not None,
        }  # fmt: skip
        if self.cache is not None:
            given["past_key_values"] = self.cache
        known = _arguments(type(self.model))
        if known is not None:
            given = {name: value for name, value in given.items() if name in known}
        return wide(self.model(input_ids=self.tokens, **given).logits[:, -keep:])


@lru_cache
def _arguments(kind: type[PreTrainedModel]) -> frozenset[str] | None:
    """The arguments of the model's forward pass; None where it takes any."""
    parameters = inspect.signature(kind.forward).parameters
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return None
    return frozenset(parameters)
