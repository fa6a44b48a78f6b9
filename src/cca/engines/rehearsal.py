"""The shortcuts that are exact on a model, found by a rehearsal: three short texts, alone and by every shortcut.

1. The reference is each text alone, in one forward pass without a cache.
2. Read back and decoded inside the attention function, alone and behind a shared prefix, in a batch where one row ends
   early and another joins late, the texts must have the same log-probabilities.
3. Otherwise they must with a cache and in a batch, or the engine does without the cache, or decodes row by row,
   whichever is enough; and behind a copied prefix, or prefixes are not shared.

Models err here in many ways: no cache, positions counted by place, windows that see the padding, states that padding
enters. With a cache a model whose attention has a window never shares: the texts of a rehearsal are shorter than it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from cca.engines.decoding import context_length, end_tokens
from cca.engines.engine import Tokens
from cca.engines.rows import CachedRows, Rows, Shortcuts, make_rows
from cca.errors import CcaError
from cca.models.anatomy.anatomy import Anatomy
from cca.models.forward.prefix_state import fixed_rotation_limit
from cca.models.loading import embedding_rows
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


def rehearse(model: PreTrainedModel, anatomy: Anatomy | None) -> tuple[Shortcuts, str]:
    """The shortcuts that are exact, and a line that names what is not, and why; empty where all are.

    ``anatomy`` None: attention is not to be touched. Raises CcaError, naming the architecture, for a model that cannot
    be decoded at all.
    """
    kind = type(model).__name__
    room = context_length(model) >= SHARED + max(OWN) + max(WRITTEN)
    with torch.inference_mode():
        readable = anatomy is not None and anatomy.interface and fixed_rotation_limit(model) is None
        direct = Shortcuts(share=room)
        if readable and not any(_fault(model, anatomy, direct, shared) for shared in ([0, SHARED] if room else [0])):
            return direct, ""
        first = ""
        for shortcuts in (
            Shortcuts(direct=False, share=False),
            Shortcuts(direct=False, share=False, cache=False),
            Shortcuts(direct=False, share=False, batch=False),
            Shortcuts(direct=False, share=False, cache=False, batch=False),
        ):
            fault = _fault(model, None, shortcuts, 0)
            first = first or fault
            if not fault:
                break
        else:
            raise CcaError(f"{kind} cannot be decoded here ({first}); use another engine, or another model")
        if first:
            without = [word for word, on in (("a cache", shortcuts.cache), ("batches", shortcuts.batch)) if not on]
            return shortcuts, f"{kind} is decoded without {' and '.join(without)} ({first})"
        if not room:
            return shortcuts, ""
        if has_window(model):
            fault = "its attention has a window or chunks"
        elif rope_switch(model) is not None:
            fault = "its rotary factors depend on a text's length"
        else:
            fault = _fault(model, None, shortcuts, SHARED)
        return replace(shortcuts, share=not fault), f"{kind}: prefixes are not shared ({fault})" if fault else ""


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


def _fault(model: PreTrainedModel, anatomy: Anatomy | None, shortcuts: Shortcuts, shared: int) -> str:
    """The reason why texts behind ``shared`` tokens differ from the reference this way; empty if they do not."""
    prefixes, texts = _texts(model, shared)
    half = model.dtype in (torch.float16, torch.bfloat16)
    try:
        alone = CachedRows(model, cached=False)
        wanted = [next(alone.read([pair])).float().log_softmax(-1) for pair in zip(prefixes, texts, strict=True)]
        if any(bool(own.isnan().any()) for own in wanted):
            return f"it gives NaN in {model.dtype}"
        for group in [[0, 1, 2]] if shortcuts.batch else [[0], [1], [2]]:
            rows = make_rows(model, anatomy, shortcuts, prefixes[0][:shared])
            own = [(prefixes[row][shared:], texts[row]) for row in group]
            read = list(rows.read(own))
            decoded = _decoded(rows, own)
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
    ends = end_tokens(model)
    usable = [token for token in range(min(embedding_rows(model), 5000)) if token not in ends]
    draws = torch.randint(len(usable), (3, shared + 20), generator=torch.Generator().manual_seed(0))
    rows = [tuple(usable[index] for index in row) for row in draws.tolist()]
    begin = rows[0][:shared]
    prefixes = [begin + row[shared : shared + own] for row, own in zip(rows, OWN, strict=True)]
    texts = [row[shared + own : shared + own + count] for row, own, count in zip(rows, OWN, WRITTEN, strict=True)]
    return prefixes, texts


def _decoded(rows: Rows, texts: Sequence[tuple[Tokens, Tokens]]) -> list[Tensor]:
    """The logits before each token that follows the texts, which is written whatever the model would say.

    The last row joins after the first token where rows may.
    """
    late = len(texts) - 1 if rows.grows and len(texts) > 1 else len(texts)
    active = list(range(late))
    logits = rows.add([text for text, _ in texts[:late]])
    found: list[list[Tensor]] = [[] for _ in texts]
    while active:
        for row, own in zip(active, logits, strict=True):
            found[row].append(own)
        keep = [place for place, row in enumerate(active) if len(found[row]) < len(texts[row][1])]
        active = [active[place] for place in keep]
        rows.keep(keep)
        if active:
            tokens = [texts[row][1][len(found[row]) - 1] for row in active]
            logits = rows.step(torch.tensor(tokens, device=logits.device))
        if late < len(texts):
            logits = torch.cat([*([logits] if active else []), rows.add([text for text, _ in texts[late:]])])
            active += range(late, len(texts))
            late = len(texts)
    return [torch.stack(own) for own in found]


def _agree(found: Tensor, wanted: Tensor, half: bool) -> bool:
    """True where (T, V) log-probabilities are equal but for rounding.

    In half precision the median position decides: rounding may send a token to another expert.
    """
    if not found.isfinite().all():
        return not wanted.isfinite().all()
    apart = (found.float() - wanted).abs().amax(dim=-1) / wanted.std(dim=-1).clamp_min(1e-6)
    return bool(apart.median() <= HALF_TOLERANCE) if half else bool(apart.max() <= TOLERANCE)
