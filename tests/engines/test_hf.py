from __future__ import annotations

import pytest
import torch

import tiny_world
from cca.engines.decoding import context_length
from cca.engines.engine import Request, request_seed
from cca.engines.hf import HFEngine
from cca.engines.rows import DirectRows
from cca.errors import CcaError


def prompts(count: int, shared: tuple[int, ...] = ()) -> list[tuple[int, ...]]:
    codec = tiny_world.grader().codec
    return [shared + codec.encode(problem.prompt) for problem in tiny_world.problems(count)]


def test_greedy_equals_taking_the_argmax_of_full_forwards() -> None:
    model = tiny_world.model()
    wanted = prompts(9)
    completions = HFEngine(model, batch_size=4).complete([Request(p) for p in wanted], 7)
    for prompt, completion in zip(wanted, completions, strict=True):
        text = list(prompt)
        for token in completion.token_ids:
            assert token == int(model(input_ids=torch.tensor([text])).logits[0, -1].argmax())
            text.append(token)
        assert len(completion.token_ids) == 7 or completion.token_ids[-1] == 2


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "qwen3"])
def test_a_shared_prefix_changes_nothing(name: str) -> None:
    model = tiny_world.model(name)
    shared = tuple(int(t) for t in torch.randint(3, 64, (20,), generator=torch.Generator().manual_seed(1)))
    wanted = prompts(6, shared)
    together = HFEngine(model).complete([Request(p, 0.9, i) for i, p in enumerate(wanted)], 6)
    alone = [HFEngine(model).complete([Request(p, 0.9, i)], 6)[0] for i, p in enumerate(wanted)]
    assert together == alone


def test_sampling_follows_the_softmax() -> None:
    model = tiny_world.model()
    (prompt,) = prompts(1)
    draws = 4000
    completions = HFEngine(model, batch_size=1000).complete([Request(prompt, 1.0, i) for i in range(draws)], 1)
    counts = torch.bincount(torch.tensor([c.token_ids[0] for c in completions]), minlength=64)
    expected = model(input_ids=torch.tensor([prompt])).logits[0, -1].softmax(-1)
    error = (counts / draws - expected).abs().max()
    assert float(error) < 4 * (0.25 / draws) ** 0.5


@pytest.mark.parametrize("shared", [0, 20])
@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2"])
def test_greedy_paths_are_the_argmaxes_along_a_text(name: str, shared: int) -> None:
    model, generator = tiny_world.model(name), torch.Generator().manual_seed(0)

    def drawn(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, 64, (count,), generator=generator).tolist())

    texts = [(p, drawn(n)) for n, p in enumerate(prompts(5, drawn(shared)), start=1)]
    for (prompt, text), path in zip(texts, HFEngine(model, batch_size=2).greedy_paths(texts), strict=True):
        logits = model(input_ids=torch.tensor([prompt + text])).logits[0, len(prompt) - 1 : -1]
        best = logits.topk(2)
        assert [path.token_ids, path.second] == [tuple(row) for row in best.indices.T.tolist()]
        assert path.margins == pytest.approx((best.values[:, 0] - best.values[:, 1]).tolist())
        of_text = logits.log_softmax(-1).gather(1, torch.tensor(text)[:, None])[:, 0]
        assert path.log_probs == pytest.approx(of_text.tolist())


def test_few_logits_at_once_change_no_path(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = HFEngine(tiny_world.model(), batch_size=4)
    texts = [(p, p[::-1]) for p in prompts(9)]
    whole, sizes = engine.greedy_paths(texts), []
    read = DirectRows.read
    monkeypatch.setattr("cca.engines.hf.READ_VALUES", 2 * 64 * max(len(p) for p in prompts(9)))
    monkeypatch.setattr(DirectRows, "read", lambda rows, own: sizes.append(len(own)) or read(rows, own))
    split = engine.greedy_paths(texts)
    assert [path.token_ids for path in split] == [path.token_ids for path in whole]
    assert max(sizes) <= 4
    assert len(sizes) > 3


def test_the_stop_rule_ends_a_text() -> None:
    model = tiny_world.model()
    request = Request(prompts(1)[0], 1.0, 5)
    (completion,) = HFEngine(model).complete([request], 40, stop=lambda text: len(text) >= 8)
    assert completion.finished
    assert len(completion.token_ids) <= 8


def test_a_prompt_that_fills_the_context_is_refused() -> None:
    model = tiny_world.model()
    with pytest.raises(CcaError, match="expected a prefix of 1 to"):
        HFEngine(model).complete([Request((3,) * context_length(model))], 4)


def test_seeds_depend_on_every_part() -> None:
    parts = [(0, "a", 1), (1, "a", 1), (0, "b", 1), (0, "a", 2)]
    assert len({request_seed(*part) for part in parts}) == 4
    assert request_seed(0, "a", 1) == request_seed(0, "a", 1) < 2**63
