"""The shortcuts that are exact on a model, found by a rehearsal: three short texts, alone and by every shortcut.

1. The reference is each text alone, in one forward pass without a cache.
2. Decoded with a cache and in a batch, where one row ends early, and read back in a batch, the texts must have the same
   log-probabilities. Otherwise the engine does without the cache, or decodes row by row, whichever is enough.
3. Behind a shared prefix that is computed once they must be the same again, or prefixes are not shared.

Models err here in many ways: no cache, positions counted by place, windows that see the padding, states that padding
enters. A model whose attention has a window never shares: the texts of a rehearsal are shorter than it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from cca.engines.decoding import Decoding, context_length, end_tokens, last_logits, positions_of, prefill, read_batch
from cca.engines.engine import Request, Tokens
from cca.errors import CcaError
from cca.models.memory import is_out_of_memory

OWN = (2, 8, 5)
"""Lengths of the three prompts."""
WRITTEN = (4, 1, 4)
"""Tokens that follow each of them."""
SHARED = 20
"""Length of the shared prefix."""
TOLERANCE, HALF_TOLERANCE = 0.01, 0.2
"""Largest difference of a log-probability, in standard deviations of the reference's, in float32 and half precision."""
_WINDOW = re.compile(r"(window|window_size|window_length|chunk_size|local_attention)$")


@dataclass(frozen=True)
class Shortcuts:
    cache: bool = True
    """Keys and values of earlier tokens are kept."""
    batch: bool = True
    """Several texts are decoded together."""
    share: bool = True
    """A prefix that all texts have in common is computed once."""


def rehearse(model: PreTrainedModel) -> tuple[Shortcuts, str]:
    """The shortcuts that are exact, and a line that names what is not, and why; empty where all are.

    Raises CcaError, naming the architecture, for a model that cannot be decoded at all.
    """
    kind = type(model).__name__
    with torch.inference_mode():
        first = ""
        for shortcuts in (
            Shortcuts(),
            Shortcuts(cache=False, share=False),
            Shortcuts(batch=False, share=False),
            Shortcuts(cache=False, batch=False, share=False),
        ):
            fault = _fault(model, shortcuts.cache, shortcuts.batch, 0)
            first = first or fault
            if not fault:
                break
        else:
            raise CcaError(f"{kind} cannot be decoded here ({first}); use another engine, or another model")
        if first:
            without = [word for word, on in (("a cache", shortcuts.cache), ("batches", shortcuts.batch)) if not on]
            return shortcuts, f"{kind} is decoded without {' and '.join(without)} ({first})"
        room = context_length(model) >= SHARED + max(OWN) + max(WRITTEN)
        if has_window(model) or rope_switch(model) is not None or not room:
            return Shortcuts(share=False), ""
        fault = _fault(model, True, True, SHARED)
        return Shortcuts(share=not fault), f"{kind}: prefixes are not shared ({fault})" if fault else ""


def has_window(model: PreTrainedModel) -> bool:
    """True where the configuration names a window or chunk of attention."""
    settings = model.config.get_text_config().to_dict()
    return any(_WINDOW.search(name) and type(value) is int and value > 0 for name, value in settings.items())


def rope_switch(model: PreTrainedModel) -> int | None:
    """The longest text of the short rotary factors of a model that has two sets (longrope: Phi-3); else None."""
    config = model.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    if not isinstance(rope, dict) or rope.get("rope_type", rope.get("type")) != "longrope":
        return None
    return rope.get("original_max_position_embeddings") or getattr(config, "original_max_position_embeddings", None)


def _fault(model: PreTrainedModel, cached: bool, together: bool, shared: int) -> str:
    """The reason why texts behind ``shared`` tokens differ from the reference this way; empty if they do not."""
    prefixes, texts = _texts(model, shared)
    half = model.dtype in (torch.float16, torch.bfloat16)
    try:
        wanted = [_alone(model, prefix + text)[-len(text) :] for prefix, text in zip(prefixes, texts, strict=True)]
        groups = [[0, 1, 2]] if together else [[0], [1], [2]]
        for group in groups:
            own = [(prefixes[row], texts[row]) for row in group]
            cache = prefill(model, prefixes[0][:shared]) if shared else None
            read = list(read_batch(model, own, shared, cache))
            decoding = Decoding(model, [Request(prefix) for prefix, _ in own], shared, cache, cached)
            decoded = _decoded(decoding, [text for _, text in own])
            for row, one, two in zip(group, read, decoded, strict=True):
                for what, found in (("read", one), ("decoded", two)):
                    if not _agree(found.log_softmax(-1), wanted[row], half):
                        return f"{what} otherwise than alone"
    except Exception as error:  # whatever a model's own code raises
        if is_out_of_memory(error):
            raise
        return " ".join(str(error).split())[:160] or type(error).__name__
    return ""


def _texts(model: PreTrainedModel, shared: int) -> tuple[list[Tokens], list[Tokens]]:
    """Three prefixes behind the same ``shared`` tokens, and what follows each; none of it ends a text."""
    embeddings: Any = model.get_input_embeddings()
    vocabulary = embeddings.weight.shape[0]
    usable = [token for token in range(min(vocabulary, 5000)) if token not in end_tokens(model)]
    draws = torch.randint(len(usable), (3, shared + 20), generator=torch.Generator().manual_seed(0))
    rows = [tuple(usable[index] for index in row) for row in draws.tolist()]
    begin = rows[0][:shared]
    prefixes = [begin + row[shared : shared + own] for row, own in zip(rows, OWN, strict=True)]
    texts = [row[shared + own : shared + own + count] for row, own, count in zip(rows, OWN, WRITTEN, strict=True)]
    return prefixes, texts


def _alone(model: PreTrainedModel, text: Tokens) -> Tensor:
    """(T - 1, V) log-probabilities of the tokens after the first."""
    token_ids = torch.tensor([text[:-1]], device=model.device)
    mask = torch.ones_like(token_ids)
    logits = last_logits(model, len(text) - 1, token_ids, mask, positions_of(mask), use_cache=False)[0]
    return logits.float().log_softmax(-1)


def _decoded(decoding: Decoding, texts: Sequence[Tokens]) -> list[Tensor]:
    """The logits before each token of the texts, which are written whatever the model would say."""
    found: list[list[Tensor]] = [[] for _ in texts]
    rows = list(range(len(texts)))
    for step in range(max(map(len, texts))):
        logits = decoding.logits()
        for index, row in enumerate(rows):
            found[row].append(logits[index])
        keep = [index for index, row in enumerate(rows) if step + 1 < len(texts[row])]
        if keep:
            chosen = torch.tensor([texts[row][step] for row in rows], device=logits.device)
            decoding.advance(chosen, keep)
            rows = [rows[index] for index in keep]
    return [torch.stack(own) for own in found]


def _agree(found: Tensor, wanted: Tensor, half: bool) -> bool:
    """True where (T, V) log-probabilities are equal but for rounding.

    In half precision the median position decides: rounding may send a token to another expert.
    """
    if not found.isfinite().all():
        return not wanted.isfinite().all()
    apart = (found.float() - wanted).abs().amax(dim=-1) / wanted.std(dim=-1).clamp_min(1e-6)
    return bool(apart.median() <= HALF_TOLERANCE) if half else bool(apart.max() <= TOLERANCE)
