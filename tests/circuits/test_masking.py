"""DCM masks learnt one token at a time against masks learnt by running every whole prompt at every step."""

from __future__ import annotations

import pytest
import torch
from doubles import in_double
from torch import Tensor
from transformers import PreTrainedModel
from zoo import VOCABULARY

import tiny_world
from cca.circuits.dcm import Mask, MaskSettings
from cca.circuits.gate_functions import GATE_FUNCTIONS
from cca.circuits.masking import learn_mask
from cca.errors import CcaError
from cca.gradients.pivot_forward import PivotForward
from cca.models.anatomy.anatomy import Anatomy, anatomy_of
from cca.models.forward.gates import gated
from cca.pivots.pivot import Pivot

SHARED = torch.randint(3, VOCABULARY, (21,), generator=torch.Generator().manual_seed(9)).tolist()
SETTINGS = MaskSettings(learning_rate=0.1, decay_every=2, epochs=3, batch_size=3, penalty=0.02, seed=5)
CASES = [(name, gate) for name in ("llama", "gemma2", "gpt2") for gate in GATE_FUNCTIONS] + [
    (name, "double")
    for name in ("mistral", "qwen3", "gemma3", "olmo2", "phi3", "gpt-neox", "falcon", "mixtral", "gpt-oss")
]


def learnt(model: PreTrainedModel, pivots: list[Pivot], settings: MaskSettings = SETTINGS) -> Mask:
    return learn_mask(model, anatomy_of(model), pivots, settings)


def learnt_by_whole_prompts(model: PreTrainedModel, pivots: list[Pivot], settings: MaskSettings) -> Mask:
    """The same training with gaps from a forward pass over each whole prompt, one pivot at a time."""
    anatomy = anatomy_of(model)
    batches = PivotForward(model, anatomy, pivots, settings.batch_size).own

    def gaps_of(batch: int, factors: Tensor) -> Tensor:
        return torch.stack([whole_gap(model, anatomy, pivots[row], factors) for row in batches[batch].rows])

    return learn_mask(model, anatomy, pivots, settings, gaps_of=gaps_of)


def whole_gap(model: PreTrainedModel, anatomy: Anatomy, pivot: Pivot, factors: Tensor) -> Tensor:
    with gated(model, anatomy, factors):
        logits = model(input_ids=torch.tensor([pivot.tokens]), use_cache=False).logits[:, -1]
    return (logits[0, pivot.desired] - logits[0, pivot.undesired]).double()


def double(name: str) -> PreTrainedModel:
    model = tiny_world.model(name)
    model.set_experts_implementation("eager")  # the default, grouped_mm, has no float64 kernel
    return model


@pytest.mark.parametrize("shared", [(), SHARED], ids=["own prompts", "shared examples"])
@pytest.mark.parametrize(("name", "gate"), CASES)
def test_masks_equal_those_of_whole_prompts(name: str, gate: str, shared: list[int]) -> None:
    model, pivots = double(name), tiny_world.pivots(5, shared=shared)
    settings = MaskSettings(**{**vars(SETTINGS), "gate": gate})
    with in_double():
        cheap, whole = learnt(model, pivots, settings), learnt_by_whole_prompts(model, pivots, settings)
    torch.testing.assert_close(cheap.gates, whole.gates, rtol=0, atol=1e-9)
    torch.testing.assert_close(cheap.gaps, whole.gaps, rtol=1e-9, atol=1e-9)
    assert cheap.gates.unique().numel() > 20  # it did learn


def test_a_float32_model_learns_the_same_mask_to_1e4() -> None:
    model, pivots = tiny_world.model(dtype=torch.float32), tiny_world.pivots(5, shared=SHARED)
    cheap, whole = learnt(model, pivots), learnt_by_whole_prompts(model, pivots, SETTINGS)
    torch.testing.assert_close(cheap.gates, whole.gates, rtol=0, atol=1e-4)


def test_learning_leaves_the_model_as_it_was_and_repeats_by_its_seed() -> None:
    model, pivots = tiny_world.model(dtype=torch.float32), tiny_world.pivots(8)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    first, again = learnt(model, pivots), learnt(model, pivots)
    other = learnt(model, pivots, MaskSettings(**{**vars(SETTINGS), "seed": 6}))
    assert torch.equal(first.gates, again.gates)
    assert first.gaps == again.gaps
    assert not torch.equal(first.gates, other.gates)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])
        assert parameter.grad is None


def test_weights_that_require_gradients_get_none_and_still_require_them() -> None:
    model, pivots = tiny_world.model(dtype=torch.float32), tiny_world.pivots(4)
    frozen = learnt(model, pivots)
    model.requires_grad_(True)
    assert torch.equal(learnt(model, pivots).gates, frozen.gates)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_the_mask_widens_the_gap_and_the_penalty_empties_it() -> None:
    model, pivots = double("llama"), tiny_world.pivots(6)
    helped = learnt(model, pivots, MaskSettings(epochs=12, learning_rate=0.1, penalty=0.0, initial=0.5))
    assert helped.gaps[-1] > helped.gaps[0] + 1
    emptied = learnt(model, pivots, MaskSettings(epochs=40, learning_rate=0.1, penalty=100.0, decay=1.0))
    assert not emptied.gates.any()
    assert len(emptied.circuit(anatomy_of(model), threshold=0.5)) == 0


def test_half_precision_models_learn_gates_in_float32() -> None:
    model, pivots = tiny_world.model(dtype=torch.bfloat16), tiny_world.pivots(4)
    gates = learnt(model, pivots, MaskSettings(epochs=2, learning_rate=1e-4)).gates
    assert gates.dtype == torch.float32
    assert 0 < float((1 - gates).max()) < 2**-9  # steps that bfloat16 would have lost


def test_the_circuit_is_what_stays_above_the_threshold() -> None:
    anatomy = anatomy_of(tiny_world.model())
    gates = torch.zeros(anatomy.size)
    gates[[0, 7, 90]] = torch.tensor([0.5, 0.625, 1.0])
    circuit = Mask(gates, ()).circuit(anatomy, threshold=0.5)
    assert circuit.components == tuple(sorted([anatomy.component(7), anatomy.component(90)]))
    assert circuit.scores == {anatomy.component(7): 0.625, anatomy.component(90): 1.0}
    assert circuit.method == "dcm"


def test_every_batch_is_visited_once_an_epoch_and_progress_counts_epochs() -> None:
    model, pivots = double("llama"), tiny_world.pivots(7)
    anatomy, seen, told = anatomy_of(model), [], []
    forward = PivotForward(model, anatomy, pivots, batch_size=3)

    def gaps_of(batch: int, factors: Tensor) -> Tensor:
        seen.append(batch)
        return forward.gaps(batch, factors)

    learn_mask(model, anatomy, pivots, SETTINGS, told.append, gaps_of)
    epochs = [sorted(seen[start : start + 3]) for start in range(0, len(seen), 3)]
    assert epochs == [[0, 1, 2]] * SETTINGS.epochs
    assert len({tuple(seen[start : start + 3]) for start in range(0, len(seen), 3)}) > 1  # in a new order
    assert told == [1] * SETTINGS.epochs


def test_nothing_to_learn_from_and_a_wild_objective_are_refused() -> None:
    model, pivots = double("llama"), tiny_world.pivots(2)
    with pytest.raises(CcaError, match="at least one pivot"):
        learnt(model, [])
    with pytest.raises(CcaError, match="expected one of double, amplify, ablate, got 'triple'"):
        learnt(model, pivots, MaskSettings(gate="triple"))
    with torch.no_grad():
        model.get_output_embeddings().weight.fill_(float("nan"))
    with pytest.raises(CcaError, match="objective became nan"):
        learnt(model, pivots)
