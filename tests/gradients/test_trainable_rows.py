"""Rows that train beside a frozen model: written and taken back to the bit, in float32, and nothing else moves."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

import tiny_world
from cca.gradients.trainable_rows import TrainableRows
from cca.models.anatomy.anatomy import anatomy_of
from cca.models.anatomy.components import Component
from cca.models.forward.gates import frozen_weights

TOKENS = torch.tensor([[5, 9, 33, 17]])
SOME = [Component(1, kind, index) for kind, index in (("q", 2), ("k", 0), ("v", 1), ("neuron", 5), ("neuron", 6))]


def made(name: str = "llama", dtype: torch.dtype = torch.float32, mode: str = "full") -> TrainableRows:
    model = tiny_world.model(name, dtype)
    return TrainableRows(model, anatomy_of(model).rows(SOME, mode))


def bits(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return all(torch.equal(left[name], right[name]) for name in right)


def logits(model: PreTrainedModel) -> Tensor:
    return model(input_ids=TOKENS, use_cache=False).logits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["llama", "gpt2", "phi3", "gpt-oss"])
def test_written_holds_the_rows_and_gives_every_bit_back(name: str, dtype: torch.dtype) -> None:
    rows = made(name, dtype)
    base, own = bits(rows.model), {key: values.clone() for key, values in rows.before.items()}
    with rows.written():
        assert same(base, bits(rows.model))  # masters that have not moved
    with torch.no_grad():
        for master in rows.masters.values():
            master.add_(0.5)
    with rows.written():
        held = bits(rows.model)
        assert all(torch.equal(rows.before[key], own[key]) for key in rows.rows)
    touched = {key[0] for key in rows.rows}
    assert {name for name in base if not torch.equal(base[name], held[name])} == touched
    assert sum(int((base[name] != held[name]).sum()) for name in touched) == sum(
        m.numel() for m in rows.masters.values()
    )
    with pytest.raises(ZeroDivisionError), rows.written():
        raise ZeroDivisionError
    assert same(base, bits(rows.model))
    for key, after in rows.after().items():
        assert after.dtype == dtype
        assert torch.equal(after, rows.masters[key].detach().to(dtype))


def test_after_and_before_are_copies_and_load_takes_them_back() -> None:
    rows = made()
    first = rows.after()
    with torch.no_grad():
        for master in rows.masters.values():
            master.zero_()
    for key, values in rows.before.items():
        assert torch.equal(first[key], values)
        values.fill_(7)
    assert not any(bool((values == 7).any()) for values in rows.before.values())
    rows.load(first)
    assert all(torch.equal(master.detach(), first[key]) for key, master in rows.masters.items())
    assert all(master.requires_grad for master in rows.masters.values())


def test_masters_are_float32_and_small_updates_add_up() -> None:
    rows = made(dtype=torch.bfloat16, mode="paper")
    key, master = next(iter(rows.masters.items()))
    assert {m.dtype for m in rows.masters.values()} == {torch.float32}
    ulp = torch.finfo(torch.bfloat16).eps * 2.0 ** torch.floor(torch.log2(master.detach().abs()))
    before = rows.after()[key]
    with torch.no_grad():
        master.add_(ulp / 16)
    assert torch.equal(rows.after()[key], before)  # a step that bfloat16 cannot hold is not lost ...
    with torch.no_grad():
        for _ in range(15):
            master.add_(ulp / 16)
    moved = rows.after()[key].float() - before.float()
    torch.testing.assert_close(moved, ulp, rtol=0, atol=1e-6 * float(ulp.max()))  # ... sixteen make one step of it
    assert {m.dtype for m in made(dtype=torch.float64).masters.values()} == {torch.float64}


def test_bfloat16_models_compute_with_what_would_be_written() -> None:
    rows = made(dtype=torch.bfloat16)
    with torch.no_grad():
        for master in rows.masters.values():
            master.mul_(1.02)
        with rows.active():
            beside = logits(rows.model)
        with rows.written():
            written = logits(rows.model)
    torch.testing.assert_close(beside, written, rtol=0.03, atol=0.03)
    assert not torch.allclose(written, logits(rows.model), rtol=0.03, atol=0.03)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt-oss"])
def test_active_leaves_no_trace(name: str) -> None:
    rows = made(name)
    expected, model = logits(rows.model), rows.model
    with torch.no_grad():
        for master in rows.masters.values():
            master.add_(0.25)
    with rows.active():
        assert not torch.allclose(logits(model), expected)
    with pytest.raises(ZeroDivisionError), rows.active():
        raise ZeroDivisionError
    assert torch.equal(logits(model), expected)
    assert not any(module._forward_hooks for module in model.modules())
    assert not any(isinstance(vars(module).get("gate_up_proj"), Tensor) for module in model.modules())


def test_two_graphs_may_be_alive_and_each_is_passed_back_through() -> None:
    for name in ("llama", "gpt-oss"):  # hooks; substituted parameters
        rows = made(name)
        with rows.active():
            first, second = (logits(rows.model)[0, -1, token] for token in (3, 4))
            first.backward()
            second.backward()
        twice = {key: master.grad.clone() for key, master in rows.masters.items() if master.grad is not None}
        for master in rows.masters.values():
            master.grad = None
        with rows.active():
            logits(rows.model)[0, -1, [3, 4]].sum().backward()
        assert len(twice) == len(rows.masters)
        for key, master in rows.masters.items():
            assert master.grad is not None
            torch.testing.assert_close(twice[key], master.grad, rtol=1e-4, atol=1e-5)


def test_frozen_for_a_while() -> None:
    model = tiny_world.model().requires_grad_(True)
    model.get_input_embeddings().requires_grad_(False)
    asking = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    with frozen_weights(model):
        assert not any(parameter.requires_grad for parameter in model.parameters())
    with pytest.raises(ZeroDivisionError), frozen_weights(model):
        raise ZeroDivisionError
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == asking


def test_rows_are_not_active_while_written_nor_written_twice() -> None:
    rows = made()
    with rows.written():
        with pytest.raises(AssertionError, match="already written"), rows.written():
            pass
        with pytest.raises(AssertionError, match="written into the model"), rows.active():
            pass
