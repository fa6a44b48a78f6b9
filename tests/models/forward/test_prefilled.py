"""Helpers around prefixes, and what they refuse; that they are exact is tested on every architecture."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel
from zoo import tiny

from cca.errors import CcaError
from cca.models.anatomy.anatomy import Anatomy, anatomy_of
from cca.models.forward.gates import gated
from cca.models.forward.prefixes import buckets, common_prefix, logits_at, padded, prefill, prefill_own, prefixed

TINY_CONFIG = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return tiny("llama")


@pytest.fixture(scope="module")
def anatomy(model: PreTrainedModel) -> Anatomy:
    return anatomy_of(model)


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=8), min_size=1, max_size=5))
def test_common_prefix(sequences: list[list[int]]) -> None:
    n = common_prefix(sequences)
    assert n < min(map(len, sequences))
    assert len({tuple(sequence[:n]) for sequence in sequences}) == 1
    longer = {tuple(sequence[: n + 1]) for sequence in sequences}
    assert len(longer) > 1 or n + 1 == min(map(len, sequences))


def test_common_prefix_of_nothing() -> None:
    assert common_prefix([]) == 0


@given(st.lists(st.integers(0, 9), max_size=20), st.integers(1, 6))
def test_buckets_hold_every_row_once_by_length(lengths: list[int], batch_size: int) -> None:
    rows = [row for bucket in buckets(lengths, batch_size) for row in bucket]
    assert sorted(rows) == list(range(len(lengths)))
    assert [lengths[row] for row in rows] == sorted(lengths)
    assert all(0 < len(bucket) <= batch_size for bucket in buckets(lengths, batch_size))


def test_padded() -> None:
    tokens, lengths = padded([[5, 9], [], [3, 7, 11]])
    assert tokens.tolist() == [[5, 9, 0], [0, 0, 0], [3, 7, 11]]
    assert lengths.tolist() == [2, 0, 3]


def test_logits_at_each_final_token_without_prefixes(model: PreTrainedModel, anatomy: Anatomy) -> None:
    tokens, lengths = padded([[5, 9, 3, 7], [11, 4]])
    full = model(input_ids=tokens).logits
    torch.testing.assert_close(logits_at(model, anatomy, tokens, lengths), full[[0, 1], lengths - 1])
    torch.testing.assert_close(logits_at(model, anatomy, tokens), full[:, -1])


def test_the_output_projection_runs_on_one_position_a_row(model: PreTrainedModel, anatomy: Anatomy) -> None:
    seen = []
    hook = model.get_output_embeddings().register_forward_hook(lambda _, __, out: seen.append(out.shape))
    shared = prefill(model, anatomy, [5, 9, 3, 7, 11, 4])
    logits_at(model, anatomy, torch.tensor([[5, 9, 3], [7, 1, 2]]), torch.tensor([2, 3]), shared=shared)
    hook.remove()
    assert seen == [(1, 1, 64), (2, 1, 64)]


def test_rows_without_anything_of_their_own(model: PreTrainedModel, anatomy: Anatomy) -> None:
    shared = prefill(model, anatomy, [5, 9, 3])
    expected = model(input_ids=torch.tensor([[5, 9, 3, 7]])).logits[:, -1]
    for batch in prefill_own(model, anatomy, [[], []], shared, batch_size=1):
        actual = logits_at(model, anatomy, torch.tensor([[7]]), shared=shared, own=batch)
        torch.testing.assert_close(actual, expected)
    (batch,) = prefill_own(model, anatomy, [[]])
    alone = model(input_ids=torch.tensor([[7]])).logits[:, -1]
    torch.testing.assert_close(logits_at(model, anatomy, torch.tensor([[7]]), own=batch), alone)


def test_prefixes_are_constants_unless_asked(model: PreTrainedModel, anatomy: Anatomy) -> None:
    assert not any(x.requires_grad for x in prefill(model, anatomy, [5, 9]).keys)
    assert all(x.requires_grad for x in prefill(model, anatomy, [5, 9], with_grad=True).keys)
    (own,) = prefill_own(model, anatomy, [[5, 9]], prefill(model, anatomy, [3], with_grad=True))
    assert not any(x.requires_grad for x in own.keys)


def test_frozen_layers_below_the_lowest_trained_one_keep_no_graph(anatomy: Anatomy) -> None:
    model = tiny("llama").requires_grad_(False)
    model.model.layers[1].mlp.up_proj.weight.requires_grad_(True)
    shared = prefill(model, anatomy, [5, 9, 3], with_grad=True)
    assert not any(x.requires_grad for x in (*shared.keys, *shared.values))


def test_bad_requests(model: PreTrainedModel, anatomy: Anatomy) -> None:
    with pytest.raises(CcaError, match="at least one shared token"):
        prefill(model, anatomy, [])
    with pytest.raises(CcaError, match="batch size"):
        prefill_own(model, anatomy, [[5]], batch_size=0)
    for lengths in ([0, 2], [1, 3], [1]):
        with pytest.raises(CcaError, match="2 lengths from 1 to 2"):
            logits_at(model, anatomy, torch.tensor([[5, 9], [3, 7]]), torch.tensor(lengths))


@pytest.mark.parametrize("name", ["llama", "falcon"])
def test_prefixes_are_not_computed_under_gates_or_other_prefixes(name: str) -> None:
    model = tiny(name)
    anatomy = anatomy_of(model)
    shared = prefill(model, anatomy, [5, 9])
    for block in (gated(model, anatomy, torch.ones(anatomy.size)), prefixed(model, anatomy, shared=shared)):
        with block, pytest.raises(CcaError, match="outside of gated and prefixed"):
            prefill(model, anatomy, [5, 9])


@pytest.mark.parametrize("rope", ["dynamic", "longrope"])
def test_rotary_embeddings_that_depend_on_length_are_refused_beyond_it(rope: str) -> None:
    parameters = {"rope_type": rope, "factor": 2.0, "rope_theta": 10000.0, "original_max_position_embeddings": 8}
    if rope == "longrope":
        parameters |= {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    config = LlamaConfig(**TINY_CONFIG, max_position_embeddings=16, rope_parameters=parameters)
    model = LlamaForCausalLM(config).eval()
    anatomy = anatomy_of(model)
    shared = prefill(model, anatomy, [5, 9, 3, 7, 11])
    tokens = torch.tensor([[4, 8, 6]])
    expected = model(input_ids=torch.tensor([[5, 9, 3, 7, 11, 4, 8, 6]])).logits[:, -1]
    torch.testing.assert_close(logits_at(model, anatomy, tokens, shared=shared), expected)
    with pytest.raises(CcaError, match="at most 8 tokens"):
        logits_at(model, anatomy, torch.tensor([[4, 8, 6, 2]]), shared=shared)
