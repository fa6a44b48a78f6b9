"""On every architecture, in float64: texts decoded together, with rows that end and join, say what each says alone."""

from __future__ import annotations

import pytest
import torch
from agreement import alone
from doubles import in_double
from zoo import RARE, TINY, VOCABULARY

from cca.engines.decoding import decode
from cca.engines.engine import Request, Tokens
from cca.engines.rehearsal import rehearse
from cca.engines.rows import DirectRows, make_rows
from cca.errors import CcaError
from cca.models.anatomy.anatomy import anatomy_of

SHARED = 20  # longer than the zoo's windows
OWN = (3, 9, 1, 14, 6)
INDIRECT = ("llama4", "minimax", "lfm2", "qwen3.5", "qwen3-next")
"""Architectures with attention in chunks, or layers without attention."""


def prompts(shared: int) -> list[Tokens]:
    draw = torch.Generator().manual_seed(3)
    begin = torch.randint(3, VOCABULARY, (shared,), generator=draw).tolist()
    return [(*begin, *torch.randint(3, VOCABULARY, (count,), generator=draw).tolist()) for count in OWN]


@pytest.mark.parametrize("name", [*TINY, *RARE])
def test_decoding_equals_each_text_alone(name: str) -> None:
    model = {**TINY, **RARE}[name]().double()
    model.set_experts_implementation("eager")  # the default, grouped_mm, has no float64 kernel
    try:
        anatomy = anatomy_of(model)
    except CcaError:
        anatomy = None
    with in_double(), torch.inference_mode():
        shortcuts, note = rehearse(model, anatomy)
        direct = anatomy is not None and anatomy.interface and name not in INDIRECT
        assert shortcuts.direct == direct
        assert shortcuts.share or "not shared" in note or "decoded without" in note
        for shared in [0, SHARED] if shortcuts.share else [0]:
            texts = prompts(shared)
            wanted = [alone(model, text, 5) for text in texts]
            rows = make_rows(model, anatomy, shortcuts, texts[0][:shared])
            own = [(text[shared:], said) for text, (said, _) in zip(texts, wanted, strict=True)]
            size = len(own) if shortcuts.batch else 1
            for start in range(0, len(own), size):
                found = list(rows.read(own[start : start + size]))
                expected = [logits for _, logits in wanted[start : start + size]]
                close = 1e-6 if name == "minimax" else 1e-9  # its decay is float32 whatever the model is
                torch.testing.assert_close(found, expected, rtol=close, atol=close)
            requests = [(place, Request(text), 2 + place % 4, 0) for place, text in enumerate(texts)]
            said = dict(decode(rows, requests, shared, min(size, 3), frozenset(), None, model.device))
            assert [said[place].token_ids for place in range(len(own))] == [
                tokens[: 2 + place % 4] for place, (_, tokens) in enumerate(own)
            ]


def test_rows_behind_a_long_prefix_are_added_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    model = TINY["llama"]()
    texts = prompts(SHARED)
    with torch.inference_mode():
        rows = DirectRows(model, anatomy_of(model), texts[0][:SHARED])
        own = [text[SHARED:] for text in texts]
        whole = rows.add(own)
        rows.keep([])
        monkeypatch.setattr("cca.engines.rows.SCORES", 4 * 14 * (SHARED + 14))
        assert len(list(rows._parts([len(text) for text in own]))) > 2
        torch.testing.assert_close(rows.add(own), whole)


def test_a_sampled_text_goes_on_with_the_numbers_it_has_not_used() -> None:
    model, prefix = TINY["llama"](), prompts(0)[0]

    def sampled(text: Tokens, count: int, used: int) -> Tokens:
        rows = DirectRows(model, anatomy_of(model))
        request = Request(text, 1.0, 5)
        ((_, made),) = decode(rows, [(0, request, count, used)], 0, 1, frozenset(), None, model.device)
        return made.token_ids

    with torch.inference_mode():
        whole = sampled(prefix, 9, 0)
        assert sampled(prefix + whole[:4], 5, 4) == whole[4:]
