"""DCM masks: equal to those of whole prompts and to the paper's, of the size aimed at, resumed to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from doubles import in_double
from torch import Tensor
from transformers import PreTrainedModel
from zoo import VOCABULARY, whole_gaps

import tiny_world
from cca.circuits.dcm import GATE_FUNCTIONS, RELAXATIONS, Annealed, Gaps, HardConcrete, Mask, Penalty, learn_mask
from cca.circuits.settings import CircuitConfig
from cca.errors import CcaError
from cca.gradients.pivot_forward import PivotForward
from cca.gradients.training_state import TrainingFile
from cca.models.anatomy.anatomy import anatomy_of
from cca.models.forward.gates import gated
from cca.pivots.pivot import Pivot

SHARED = torch.randint(3, VOCABULARY, (21,), generator=torch.Generator().manual_seed(9)).tolist()
SETTINGS = CircuitConfig(learning_rate=0.1, decay_every=2, epochs=3, batch_size=3, penalty=0.02)
CASES = [(name, gate) for name in ("llama", "gemma2", "gpt2") for gate in GATE_FUNCTIONS] + [
    (name, "double")
    for name in ("mistral", "qwen3", "gemma3", "olmo2", "phi3", "gpt-neox", "falcon", "mixtral", "gpt-oss")
]


def learnt(
    model: PreTrainedModel,
    pivots: list[Pivot],
    settings: CircuitConfig = SETTINGS,
    seed: int = 5,
    gaps_of: Gaps | None = None,
) -> Mask:
    forward = PivotForward(model, anatomy_of(model), pivots, settings.batch_size)
    return learn_mask(forward, settings, seed, gaps_of=gaps_of)


def learnt_by_whole_prompts(model: PreTrainedModel, pivots: list[Pivot], settings: CircuitConfig) -> Mask:
    """The same training with gaps from a forward pass over each whole prompt, one pivot at a time."""
    anatomy = anatomy_of(model)
    batches = PivotForward(model, anatomy, pivots, settings.batch_size).own

    def gaps_of(batch: int, factors: Tensor) -> Tensor:
        with gated(model, anatomy, factors):
            return whole_gaps(model, [pivots[row] for row in batches[batch].rows]).double()

    return learnt(model, pivots, settings, gaps_of=gaps_of)


def double(name: str) -> PreTrainedModel:
    model = tiny_world.model(name)
    model.set_experts_implementation("eager")  # the default, grouped_mm, has no float64 kernel
    return model


@pytest.mark.parametrize("shared", [(), SHARED], ids=["own prompts", "shared examples"])
@pytest.mark.parametrize(("name", "gate"), CASES)
def test_masks_equal_those_of_whole_prompts(name: str, gate: str, shared: list[int]) -> None:
    model, pivots = double(name), tiny_world.pivots(5, shared=shared)
    settings = SETTINGS.model_copy(update={"gate": gate})
    with in_double():
        cheap, whole = learnt(model, pivots, settings), learnt_by_whole_prompts(model, pivots, settings)
    torch.testing.assert_close(cheap.gates, whole.gates, rtol=0, atol=1e-9)
    torch.testing.assert_close(cheap.gaps, whole.gaps, rtol=1e-9, atol=1e-9)
    assert cheap.gates.unique().numel() > 20  # it did learn


def test_learning_leaves_the_model_as_it_was_and_repeats_by_its_seed() -> None:
    model, pivots = tiny_world.model(dtype=torch.float32), tiny_world.pivots(8)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    first = learnt(model, pivots)
    model.requires_grad_(True)  # whatever the weights ask for
    again, other = learnt(model, pivots), learnt(model, pivots, seed=6)
    assert torch.equal(first.gates, again.gates)
    assert first.gaps == again.gaps
    assert not torch.equal(first.gates, other.gates)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])
        assert parameter.grad is None
        assert parameter.requires_grad


def test_the_mask_widens_the_gap_and_the_penalty_empties_it() -> None:
    model, pivots = double("llama"), tiny_world.pivots(6)
    helped = learnt(model, pivots, CircuitConfig(epochs=12, learning_rate=0.1, penalty=0.0, initial=0.5))
    assert helped.gaps[-1] > helped.gaps[0] + 1
    emptied = learnt(model, pivots, CircuitConfig(epochs=40, learning_rate=0.1, penalty=100.0, decay=1.0))
    assert not emptied.gates.any()
    assert len(emptied.circuit(anatomy_of(model), threshold=0.5)) == 0


def test_gates_of_0_and_1_ablate_keep_or_double() -> None:
    ends = {name: [float(f(torch.tensor(m))) for m in (0.0, 1.0)] for name, f in GATE_FUNCTIONS.items()}
    assert ends == {"double": [0.0, 2.0], "amplify": [1.0, 2.0], "ablate": [0.0, 1.0]}


def test_half_precision_models_learn_gates_in_float32() -> None:
    model, pivots = tiny_world.model(dtype=torch.bfloat16), tiny_world.pivots(4)
    gates = learnt(model, pivots, CircuitConfig(epochs=2, learning_rate=1e-4)).gates
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

    learn_mask(forward, SETTINGS, progress=told.append, gaps_of=gaps_of)
    epochs = [sorted(seen[start : start + 3]) for start in range(0, len(seen), 3)]
    assert epochs == [[0, 1, 2]] * SETTINGS.epochs
    assert len({tuple(seen[start : start + 3]) for start in range(0, len(seen), 3)}) > 1  # in a new order
    assert told == [1] * SETTINGS.epochs


def test_nothing_to_learn_from_and_a_wild_objective_are_refused() -> None:
    model, pivots = double("llama"), tiny_world.pivots(2)
    with pytest.raises(CcaError, match="at least one pivot"):
        learnt(model, [])
    with torch.no_grad():
        model.get_output_embeddings().weight.fill_(float("nan"))
    with pytest.raises(CcaError, match="expected a finite objective, got nan"):
        learnt(model, pivots)


RESUMED = CircuitConfig(epochs=7, batch_size=2, learning_rate=0.1, decay_every=2, penalty=0.02, initial=0.6)


class Killed(Exception):
    pass


class Counted:
    """The forward of some pivots; told to, it dies in the midst of an epoch."""

    def __init__(self) -> None:
        model = tiny_world.model(dtype=torch.float32)
        self.forward = PivotForward(model, anatomy_of(model), tiny_world.pivots(6), RESUMED.batch_size)
        self.calls, self.last = 0, 10**9

    def gaps(self, batch: int, factors: Tensor) -> Tensor:
        if self.calls == self.last:
            raise Killed
        self.calls += 1
        return self.forward.gaps(batch, factors)

    def train(self, relaxation: str, aimed: bool, state: TrainingFile | None = None) -> Mask:
        settings = RESUMED.model_copy(update={"relaxation": relaxation})
        target = 20 if aimed else None
        return learn_mask(self.forward, settings, target=target, gaps_of=self.gaps, state=state)


def kept(folder: Path) -> TrainingFile:
    return TrainingFile(folder / "mask", "these pivots")


@pytest.mark.parametrize("aimed", [False, True], ids=["fixed penalty", "penalty for a size"])
@pytest.mark.parametrize("relaxation", list(RELAXATIONS))
def test_a_stopped_training_goes_on_to_the_same_gates(relaxation: str, aimed: bool, tmp_path: Path) -> None:
    unbroken = Counted()
    expected = unbroken.train(relaxation, aimed)
    batches = unbroken.forward.batches
    again = Counted()
    for epochs in (1, 4):  # each time killed in the middle of the next one
        again.last = again.calls + (epochs if epochs == 1 else 3) * batches + 1
        with pytest.raises(Killed):
            again.train(relaxation, aimed, kept(tmp_path))
    again.last = 10**9
    mask = again.train(relaxation, aimed, kept(tmp_path))
    assert torch.equal(mask.gates, expected.gates)
    assert mask.gaps == expected.gaps
    assert again.calls == unbroken.calls + 2, "two batches were lost to kills, and no epoch"
    assert torch.equal(again.train(relaxation, aimed, kept(tmp_path)).gates, expected.gates)
    assert again.calls == unbroken.calls + 2, "a finished training has nothing left to do"


def test_clamp_with_a_fixed_penalty_is_the_papers_mask() -> None:
    model, pivots = tiny_world.model(), tiny_world.pivots(6)
    anatomy = anatomy_of(model)
    settings = CircuitConfig(epochs=12, batch_size=4, learning_rate=0.2, penalty=0.02)
    forward = PivotForward(model, anatomy, pivots, settings.batch_size)
    mask = learn_mask(forward, settings)

    gates = torch.ones(anatomy.size, dtype=torch.float64, requires_grad=True)
    adam, order = torch.optim.Adam([gates], lr=0.2), torch.Generator().manual_seed(0)
    rate = torch.optim.lr_scheduler.StepLR(adam, 5, 0.9)
    for _ in range(12):
        for batch in torch.randperm(forward.batches, generator=order).tolist():
            adam.zero_grad()
            (0.02 * gates.abs().sum() - forward.gaps(batch, 2 * gates).mean()).backward()
            adam.step()
            gates.data.clamp_(0, 1)
        rate.step()
    torch.testing.assert_close(mask.gates, gates.detach())
    assert 0 == float(mask.gates.min()) < float(mask.gates.max()) <= 1


class LinearGap:
    """A stand-in whose gap is the sum of what each component is worth times its factor."""

    def __init__(self, worth: torch.Tensor) -> None:
        self.model, self.worth, self.batches = tiny_world.model(dtype=torch.float32), worth, 1
        self.anatomy = anatomy_of(self.model)
        self.last = torch.zeros(1, 1)

    def gaps(self, batch: int, factors: torch.Tensor) -> torch.Tensor:
        del batch
        return (self.worth * factors).sum()[None]


@pytest.mark.parametrize(("name", "target"), [("clamp", 5), ("clamp", 40), ("hard-concrete", 40)])
def test_dual_ascent_reaches_the_size_with_the_components_worth_most(name: str, target: int) -> None:
    size = anatomy_of(tiny_world.model()).size
    worth = torch.linspace(0.01, 1.0, size)
    forward: Any = LinearGap(worth)
    settings = CircuitConfig(
        gate="amplify", epochs=500, learning_rate=0.05, decay_every=100, decay=0.6, initial=0.5
    ).model_copy(update={"relaxation": name})
    mask = learn_mask(forward, settings, target=target)
    chosen = mask.circuit(forward.anatomy, 0.5)
    assert len(chosen) == pytest.approx(target, abs=0.1 * target)
    best = {forward.anatomy.component(place) for place in worth.topk(target).indices.tolist()}
    assert len(best & set(chosen.components)) >= 0.8 * target


@pytest.mark.parametrize("name", list(RELAXATIONS))
def test_a_fixed_penalty_keeps_what_is_worth_more_than_it(name: str) -> None:
    worth = torch.linspace(0.0, 1.0, anatomy_of(tiny_world.model()).size)
    forward: Any = LinearGap(worth)
    settings = CircuitConfig(
        gate="amplify", epochs=300, learning_rate=0.05, decay_every=100, initial=0.5, penalty=0.4
    ).model_copy(update={"relaxation": name})
    gates = learn_mask(forward, settings).gates
    # a hard-concrete gate's size is its chance of not being 0, not its value
    clear = (worth - 0.4).abs() > 0.25
    assert torch.equal((gates > 0.5)[clear], (worth > 0.4)[clear])


def test_the_penalty_rises_while_too_large_and_falls_while_too_small() -> None:
    penalty = Penalty(start=0.1, target=10)
    penalty.update(20)
    high = penalty.value
    penalty.update(2)
    assert high > 0.1 > 0
    assert penalty.value < high


def test_hard_concrete_size_is_the_share_of_draws_that_are_not_zero() -> None:
    made = HardConcrete(4, 0.5, torch.float64)
    with torch.no_grad():
        made.parameters.copy_(torch.tensor([-3.0, -1.0, 0.5, 2.0]))
        generator = torch.Generator().manual_seed(0)
        draws = torch.stack([made.gates(0.0, generator) for _ in range(4000)])
    torch.testing.assert_close((draws > 0).double().mean(0), made.sizes(0.0).detach(), rtol=0.0, atol=0.03)
    assert ((draws == 0) | (draws == 1)).any(), "some draws are exactly closed or open"


def test_annealed_gates_end_binary() -> None:
    made = Annealed(3, 0.5, torch.float64)
    with torch.no_grad():
        made.parameters.copy_(torch.tensor([-0.5, 0.45, 0.6]))
    generator = torch.Generator()
    assert float((made.gates(0.0, generator).detach() - 0.5).abs().max()) < 0.3
    torch.testing.assert_close(made.gates(1.0, generator).round(), made.gates(1.0, generator), rtol=0, atol=0.02)
    torch.testing.assert_close(made.final(), made.gates(1.0, generator).detach())


@pytest.mark.parametrize("name", list(RELAXATIONS))
@pytest.mark.parametrize("initial", [0.0, 0.4, 1.0])
def test_gates_start_where_they_are_told_to(name: str, initial: float) -> None:
    made = RELAXATIONS[name](5, initial, torch.float64)
    start = made.parameters.detach().sigmoid() if name == "annealed" else made.final()
    assert float((start - initial).abs().max()) <= 0.051
