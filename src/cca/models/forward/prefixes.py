"""Prefix KV: the tokens before those that matter are computed once and attended to, never run again.

* `prefill` computes the prefix that all rows share (a task's few-shot examples), with or without gradient.
* `prefill_own` computes each row's own part after it (a pivot's prefix up to its last token), in batches of
  rows of similar length, right-padded.
* `prefixed` puts them in place: a forward pass then takes only the new tokens, at their true positions.
* `logits_at` runs new tokens and returns each row's logits at its final real token.

A masking step is thus a forward and backward pass of one token per pivot. All of it is exact: sliding
windows, soft caps and attention sinks see true positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from cca.errors import CcaError
from cca.models.anatomy.anatomy import Anatomy
from cca.models.forward.attention import hooked_attention
from cca.models.forward.prefix_state import CachedPrefixes, DirectPrefixes, KeysValues, OwnPrefixes, SharedPrefix
from cca.models.forward.prefix_store import Storage, StoredPrefixes

LEAST = 1 << 30
"""Bytes that activations may take whatever the size of the model."""


def common_prefix(sequences: Sequence[Sequence[int]]) -> int:
    """Length of the longest token prefix that all sequences share, leaving each at least its last token."""
    if not sequences:
        return 0
    limit = max(0, min(len(sequence) for sequence in sequences) - 1)
    first, last = min(map(tuple, sequences)), max(map(tuple, sequences))
    return next((index for index in range(limit) if first[index] != last[index]), limit)


def prefill(
    model: PreTrainedModel, anatomy: Anatomy, token_ids: Sequence[int], with_grad: bool = False
) -> SharedPrefix:
    """Compute the prefix that all rows share, once, as a batch of one. The model must not be gated.

    with_grad: keep the graph, so that a loss behind the prefix reaches the weights through it.
    """
    if not len(token_ids):
        raise CcaError("prefix: expected at least one shared token, got none; leave the shared prefix out")
    tokens = torch.tensor([list(token_ids)], device=_device(model))
    with torch.set_grad_enabled(with_grad):
        computed = _computed(model, anatomy, tokens, None)
    return SharedPrefix(tuple(k[0] for k, _ in computed), tuple(v[0] for _, v in computed), len(token_ids))


def prefill_own(
    model: PreTrainedModel,
    anatomy: Anatomy,
    sequences: Sequence[Sequence[int]],
    shared: SharedPrefix | None = None,
    batch_size: int = 32,
    storage: Storage | Literal["auto"] = "auto",
    folder: Path | None = None,
    batches: Sequence[Sequence[int]] | None = None,
) -> StoredPrefixes:
    """Compute each sequence's keys and values behind ``shared``, without gradient.

    sequences: each row's tokens between the shared prefix and its last token; may be empty.
    storage, folder: where they are kept, see `StoredPrefixes`.
    batches: the numbers of the sequences in each batch; None: at most ``batch_size``, bucketed by length.
    Returns a sequence of batches; ``rows`` of each says which sequences are in it.
    """
    if batches is None:
        batches = buckets([len(sequence) for sequence in sequences], batch_size)
    padded_tokens = sum(len(rows) * max(len(sequences[row]) for row in rows) for rows in batches)
    stored = StoredPrefixes(padded_tokens, storage, folder)
    for rows in batches:
        tokens, lengths = padded([sequences[row] for row in rows], _device(model))
        with torch.no_grad():
            if tokens.shape[1]:
                computed = _computed(model, anatomy, tokens, shared)
            else:
                computed = _nothing(model, anatomy, len(rows), shared)
        keys = tuple(k.transpose(0, 1).contiguous() for k, _ in computed)
        values = tuple(v.transpose(0, 1).contiguous() for _, v in computed)
        stored.append(OwnPrefixes(keys, values, lengths, tuple(rows)))
    return stored


@contextmanager
def prefixed(
    model: PreTrainedModel, anatomy: Anatomy, *, shared: SharedPrefix | None = None, own: OwnPrefixes | None = None
) -> Iterator[None]:
    """Within the block, ``model(input_ids=...)`` takes only the tokens that come after these prefixes.

    Tokens are (B, T), right-padded where lengths differ, with no mask, cache or positions given: each row's
    positions continue from its prefix. Without any prefix this does nothing. Raises CcaError when prefixes are
    already in place.
    """
    if shared is None and own is None:
        yield
        return
    kind = DirectPrefixes if anatomy.interface else CachedPrefixes
    with hooked_attention(model, anatomy, prefixes=kind(model, shared, own)):
        yield


def logits_at(
    model: PreTrainedModel,
    anatomy: Anatomy,
    tokens: Tensor,
    lengths: Tensor | None = None,
    *,
    shared: SharedPrefix | None = None,
    own: OwnPrefixes | None = None,
) -> Tensor:
    """Logits (B, V) at each row's final real token, after the prefixes given or already in place.

    tokens: (B, T), right-padded; lengths: (B,) real tokens, None when all are. The output projection runs on
    those B positions only, with whatever the model does to its logits. Raises CcaError for lengths that do not fit.
    """
    B, T = tokens.shape
    if lengths is not None and not (lengths.shape == (B,) and 1 <= int(lengths.min()) <= int(lengths.max()) <= T):
        raise CcaError(f"tokens: expected {B} lengths from 1 to {T}, got {lengths.tolist()}")
    with ExitStack() as stack:
        stack.enter_context(prefixed(model, anatomy, shared=shared, own=own))
        if T > 1:
            final = torch.full((B,), T) if lengths is None else lengths
            rows = torch.arange(B, device=tokens.device)
            stack.callback(project_only(model, rows, final.to(tokens.device) - 1).remove)
        return model(input_ids=tokens, use_cache=False).logits[:, -1]


def padded(sequences: Sequence[Sequence[int]], device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Token ids (B, T), right-padded with zeros, and lengths (B,)."""
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    tokens = torch.zeros(len(sequences), int(lengths.max()), dtype=torch.long)
    for row, sequence in enumerate(sequences):
        tokens[row, : len(sequence)] = torch.as_tensor(sequence, dtype=torch.long)
    return tokens.to(device), lengths.to(device)


def buckets(lengths: Sequence[int], batch_size: int, most_tokens: int | None = None) -> list[list[int]]:
    """Row numbers in batches of at most ``batch_size`` rows of similar length, shortest first.

    ``most_tokens``: of a batch, padding included; a row that is longer has a batch of its own.
    """
    if batch_size < 1:
        raise CcaError(f"batch size: expected at least 1, got {batch_size}")
    batches: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: (lengths[row], row)):
        full = not batches or len(batches[-1]) == batch_size
        if full or (most_tokens is not None and (len(batches[-1]) + 1) * lengths[row] > most_tokens):
            batches.append([])
        batches[-1].append(row)
    return batches


def most_tokens(model: PreTrainedModel, keys: int = 0) -> int:
    """Tokens of one forward and backward pass whose activations take about as much memory as the weights, or `LEAST`.

    keys: of the shared prefix and of each row, next to which attention scores are held whole. A number of the model
    alone, not of what is free: batches, and with them rounding, are the same in every run.
    """
    config = model.config.get_text_config()
    neurons = getattr(config, "intermediate_size", None)
    neurons = neurons if isinstance(neurons, int) else 4 * config.hidden_size
    size = model.dtype.itemsize
    layer = (16 * config.hidden_size + 4 * neurons) * size  # kept for the backward pass
    layer += keys * (getattr(config, "num_attention_heads", None) or 1) * (size + 8)
    each = config.num_hidden_layers * layer + config.vocab_size * (size + 8)
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    return max(1, max(weights, LEAST) // each)


def check_prefixes(anatomy: Anatomy) -> None:
    """Raise CcaError for a model with layers that have no keys and values to keep (linear attention, convolutions)."""
    without = [parts.index for parts in anatomy.layers if parts.attention is None]
    if without:
        raise CcaError(
            f"{anatomy.model_type}: layer {without[0]} has no attention, so prefixes cannot be kept and no circuit "
            "be located; take a model with attention in every layer"
        )


def _computed(
    model: PreTrainedModel, anatomy: Anatomy, tokens: Tensor, shared: SharedPrefix | None
) -> list[KeysValues]:
    """Keys and values (B, KV, T, D) of tokens (B, T) behind ``shared``, by layer."""
    check_prefixes(anatomy)
    B, T = tokens.shape
    rows = torch.arange(B, device=tokens.device)
    with ExitStack() as stack:
        hooks = stack.enter_context(hooked_attention(model, anatomy, capture=True))
        if hooks.gates is not None or hooks.prefixes is not None:
            raise CcaError("prefixes: expected to be computed outside of gated and prefixed blocks, got one open")
        # the logits are not needed: project one position per row, the least a model can be asked for
        stack.callback(project_only(model, rows, torch.full_like(rows, T - 1)).remove)
        if not anatomy.interface:
            prefixes = CachedPrefixes(model, shared, None)
            stack.enter_context(hooked_attention(model, anatomy, prefixes=prefixes))
            model(input_ids=tokens)
            return prefixes.new_keys_values(T)
        stack.enter_context(prefixed(model, anatomy, shared=shared))
        model(input_ids=tokens, use_cache=False)
        assert hooks.captured is not None
        assert len(hooks.captured) == len(anatomy.layers), "a layer's attention never called ours"
        return [hooks.captured[layer] for layer in range(len(anatomy.layers))]


def _nothing(model: PreTrainedModel, anatomy: Anatomy, rows: int, shared: SharedPrefix | None) -> list[KeysValues]:
    """The result of `_computed` for no tokens at all."""
    if shared is not None:
        empty = [[x[:, :0].expand(rows, -1, -1, -1) for x in side] for side in (shared.keys, shared.values)]
        return list(zip(*empty, strict=True))
    like = next(model.base_model.parameters())
    shapes = [(rows, parts.n_kv_heads, 0, parts.head_dim) for parts in anatomy.layers]
    return [(like.new_zeros(shape), like.new_zeros(shape)) for shape in shapes]


def project_only(model: PreTrainedModel, rows: Tensor, positions: Tensor) -> torch.utils.hooks.RemovableHandle:
    """Give the output projection hidden states (N, 1, C) of ``rows`` at ``positions``, (N,) each, for (B, T, C)."""

    def gather(_: torch.nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        hidden = args[0]
        return (hidden[rows.to(hidden.device), positions.to(hidden.device)][:, None],)

    head: Any = model.get_output_embeddings()
    return head.register_forward_pre_hook(gather)


def _device(model: PreTrainedModel) -> torch.device:
    return next(model.get_input_embeddings().parameters()).device
