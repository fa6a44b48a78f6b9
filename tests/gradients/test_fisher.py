"""Whitening: Fisher blocks against a twin of dense gradients, directions against a dense solve, and what they spare."""

from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedModel

import tiny_world
from architectures.zoo import tiny
from cca.amplify.amplify import Validation, amplify
from cca.amplify.settings import AmplifyConfig
from cca.circuits.circuit import Circuit
from cca.errors import CcaError
from cca.gradients.fisher import Whitening, fisher_blocks, measure_whitening, probed, rows_with_input
from cca.gradients.sampled_likelihood import sampled_log_likelihood
from cca.gradients.trainable_rows import Key, TrainableRows
from cca.models.anatomy.anatomy import anatomy_of
from cca.models.anatomy.components import Component
from cca.models.anatomy.weight_rows import get_rows

TEXTS = [((1, 2, 3), (4, 5)), ((6, 7), (8, 9, 10, 11)), ((3,), (2,))]
NEURONS = Circuit.of([Component(0, "neuron", 1), Component(1, "neuron", 3)], "test")
PIVOTS = tiny_world.pivots(6)


def drawing(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def model() -> PreTrainedModel:
    return tiny_world.model(dtype=torch.float32)


@pytest.mark.parametrize("name", ["llama", "gpt2", "phi3", "gpt-neox"])
def test_the_layers_named_are_those_with_rows(name: str) -> None:
    model = tiny(name).double()
    rows = anatomy_of(model).rows([*NEURONS.components, Component(0, "q", 0)])
    blocks = fisher_blocks(model, rows, TEXTS, drawing(), batch_size=2)
    assert set(blocks) == {(row.parameter, row.axis) for row in rows if not row.parameter.endswith("bias")}
    for block in blocks.values():
        for moment in (block.fisher, block.inputs):
            assert torch.linalg.eigvalsh(moment).min() > -1e-12
            assert moment.diagonal().sum() > 0


@pytest.mark.parametrize("name", ["llama", "gpt2", "mixtral", "gpt-oss", "deepseek-v3"])
def test_a_block_of_one_token_is_the_square_of_the_dense_gradients(name: str) -> None:
    """With one position in the text, d x is a row's whole gradient: F is the mean outer product with itself."""
    model = tiny(name).double()
    model.set_experts_implementation("eager")  # the default, grouped_mm, has no float64 kernel
    rows = anatomy_of(model).rows([*anatomy_of(model).components(["v", "neuron"])])
    text = [((5,), (2,))]
    blocks = fisher_blocks(model, rows, text, drawing(), samples=1)
    assert set(blocks) == {(row.parameter, row.axis) for row in rows if not row.parameter.endswith("bias")}
    for row in rows:
        if (row.parameter, row.axis) not in blocks:
            continue
        weight = model.get_parameter(row.parameter).requires_grad_(True)
        (dense,) = torch.autograd.grad(sampled_log_likelihood(model, text, drawing()), weight)
        gradients = get_rows(dense, row.axis, row.indices)
        block = blocks[row.parameter, row.axis]
        torch.testing.assert_close(block.fisher, gradients.T @ gradients / len(gradients), rtol=1e-5, atol=1e-12)
        assert int(torch.linalg.matrix_rank(block.inputs)) == 1


@pytest.mark.parametrize("name", ["mixtral", "olmoe", "gpt-oss"])
def test_probes_of_experts_change_no_bit(name: str) -> None:
    model, tokens = tiny(name), torch.tensor([[3, 4, 5, 6], [7, 8, 9, 9]])
    rows = anatomy_of(model).rows([*anatomy_of(model).components(["neuron"])])
    plain = model(tokens).logits
    with probed(model, rows_with_input(model, rows)) as probes:
        assert torch.equal(model(tokens).logits, plain)
    layers, experts, each = 2, 4, 2  # each token is routed to 2 of 4 experts
    assert len(probes) == layers * experts
    assert sum(len(probe.x) for probe in probes) == layers * each * tokens.numel()


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2"])
def test_layers_that_read_one_input_share_its_second_moment_in_float32(name: str) -> None:
    model = tiny(name)
    rows = anatomy_of(model).rows([*anatomy_of(model).components()])
    blocks = fisher_blocks(model, rows, TEXTS, drawing(), batch_size=2)
    assert all(block.fisher.dtype == block.inputs.dtype == torch.float32 for block in blocks.values())
    layers = len(anatomy_of(model).layers)
    assert len({id(block.inputs) for block in blocks.values()}) == 2 * layers, "of attention and of the MLP"
    wide = fisher_blocks(tiny(name).double(), rows, TEXTS, drawing(), batch_size=2)
    assert wide.keys() == blocks.keys()


def test_layers_that_no_text_reaches_are_left_out() -> None:
    """An expert without tokens: nothing is known of its rows, and their steps are plain."""
    model = tiny("mixtral")
    anatomy = anatomy_of(model)
    text = [((5,), (2,))]
    each = anatomy.count(1, "neuron") // 4
    experts = [anatomy.rows([Component(1, "neuron", e * each)]) for e in range(4)]
    known = [fisher_blocks(model, rows, text, drawing()) for rows in experts]
    assert sorted(map(len, known)) == [0, 0, 1, 1]


def test_batches_and_padding_change_nothing() -> None:
    model = tiny("llama").double()
    rows = anatomy_of(model).rows(NEURONS.components)
    once, apart = (
        fisher_blocks(model, rows, [TEXTS[0], TEXTS[0]], drawing(), batch_size=size, samples=1) for size in (2, 1)
    )
    for key, block in once.items():
        torch.testing.assert_close(block.fisher, apart[key].fisher)
    long, short = [((1, 2), (3, 4, 5, 6, 7))], [((8,), (9,))]
    generator = drawing()
    summed = [fisher_blocks(model, rows, text, generator, samples=1) for text in (short, long)]
    together = fisher_blocks(model, rows, [*short, *long], drawing(), batch_size=2, samples=1)
    for key, block in together.items():  # 1 and 5 solution tokens
        fisher = (summed[0][key].fisher * 1 + summed[1][key].fisher * 5) / 6
        read = 6 if "layers.0." in key[0] else 5  # in the last layer nothing rests on the prompt's first token
        inputs = (summed[0][key].inputs + summed[1][key].inputs * read) / (1 + read)
        torch.testing.assert_close(block.fisher, fisher, rtol=1e-5, atol=1e-12)
        torch.testing.assert_close(block.inputs, inputs, rtol=1e-5, atol=1e-12)


def test_the_metric_is_fisher_and_a_tenth_of_the_inputs_and_the_damping(model: PreTrainedModel) -> None:
    rows = anatomy_of(model).rows(NEURONS.components)
    factors = measure_whitening(model, rows, TEXTS, 0.01, drawing(3)).factors
    blocks = fisher_blocks(model, rows, TEXTS, drawing(3))
    assert set(factors) == set(blocks)
    for key, block in blocks.items():
        metric = 0.01 * torch.eye(len(block.fisher), dtype=torch.float64)
        for share, part in ((1.0, block.fisher), (0.1, block.inputs)):
            metric += share * part / part.diagonal().mean()
        factor = factors[key].double()
        torch.testing.assert_close(factor @ factor.T, metric, rtol=1e-4, atol=1e-5)


def test_directions_solve_the_damped_system() -> None:
    key: Key = ("layer.weight", 0)
    generator = torch.Generator().manual_seed(0)
    x, gradient = (torch.randn(n, 5, generator=generator, dtype=torch.float64) for n in (9, 3))
    damped = x.T @ x + 0.1 * torch.eye(5, dtype=torch.float64)
    whiten = Whitening({key: torch.linalg.cholesky(damped)})
    other: Key = ("layer.bias", 0)
    directions = whiten({key: gradient, other: gradient})
    torch.testing.assert_close(directions[key] @ damped, gradient)
    assert directions[other] is gradient


def test_steps_cost_other_text_less(model: PreTrainedModel) -> None:
    """For the same predicted change of the objective, the Fisher cost on the other text is smaller."""
    anatomy, rows = anatomy_of(model), anatomy_of(model).rows(NEURONS.components)
    settings = AmplifyConfig(steps=1, predicted_change=0.01)
    blocks = fisher_blocks(model, rows, TEXTS, drawing())
    costs = {}
    for name in ("none", "fisher"):
        verdicts = iter([Validation(0.5, 0.0, {}, True), Validation(0.6, 0.0, {}, True)])
        done = amplify(
            model, anatomy, NEURONS, PIVOTS, settings.model_copy(update={"whitening": name}),
            verdicts.__next__, texts=TEXTS,
        )  # fmt: skip
        moved = {key: done.rows[key].double() - done.trained.before[key].double() for key in done.rows}
        costs[name] = sum(float((delta @ blocks[key].fisher.double() * delta).sum()) for key, delta in moved.items())
    assert 0 < costs["fisher"] < 0.8 * costs["none"]


def test_what_cannot_be_whitened_is_refused(model: PreTrainedModel) -> None:
    rows = anatomy_of(model).rows(NEURONS.components)
    with pytest.raises(CcaError, match="expected text of other skills"):
        measure_whitening(model, rows, [((1,), ())], 1e-3, drawing())
    assert TrainableRows(model, rows).masters  # and the model is as it was
    settings = AmplifyConfig(optimiser="adam", coefficient=1e-3, whitening="fisher")
    with pytest.raises(CcaError, match="expected optimiser gradient-descent, got adam"):
        amplify(
            model, anatomy_of(model), NEURONS, PIVOTS, settings,
            lambda: Validation(0.5, 0.0, {}, True), texts=TEXTS,
        )  # fmt: skip
