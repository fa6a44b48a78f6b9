"""Peak memory of an amplify step: the model, activations, and three times the circuit's rows; nothing of other weights.

Every allocation of torch is followed with its profiler, so the peak is exact and repeats. What activations are is
measured, not assumed: ordinary training over the same tokens, layer for layer, that drops every weight's gradient as
soon as it is made. The circuit is large and prompts are short, or activations would hide what is claimed of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import PreTrainedModel

from benchmarks.measuring import Measured, Row
from benchmarks.models import random_llama, random_pivots
from cca.amplify.amplify import Validation, amplify
from cca.amplify.settings import AmplifyConfig
from cca.circuits.circuit import Circuit, random_circuit
from cca.gradients.pivot_gradient import OBJECTIVES, add_pivot_gradient
from cca.gradients.trainable_rows import TrainableRows
from cca.models.anatomy.anatomy import Anatomy, anatomy_of
from cca.models.anatomy.weight_rows import WeightRows
from cca.pivots.pivot import Pivot

SHAPE = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 6, "max_position_embeddings": 256}
BATCH, OWN = 4, 16
OBJECTIVE = OBJECTIVES["softplus"]


def measure() -> list[Row]:
    model = random_llama(**SHAPE)
    anatomy = anatomy_of(model)
    half = Circuit.of(list(anatomy.components())[::2], "half")
    circuit = random_circuit(anatomy, half, torch.Generator().manual_seed(0))
    pivots = random_pivots(BATCH, 0, OWN)
    size = 4 * sum(parameter.numel() for parameter in model.parameters())
    rows = 4 * anatomy.parameter_count(circuit.components)
    activations = peak(lambda: training_without_gradients(model, anatomy, pivots))
    naive = peak(lambda: training(model, anatomy, pivots))
    step = peak(lambda: one_step(model, anatomy, circuit, pivots))
    lean = peak(lambda: one_step(model, anatomy, circuit, pivots, checkpointing=True))
    loop = peak(lambda: four_steps(model, anatomy, circuit, pivots))
    each = peak(lambda: one_step(model, anatomy, circuit, pivots, rows_each=1))
    limit = size + activations + 3 * rows
    numbers = (
        f"model {mb(size)}, activations {mb(activations)}, circuit's rows {mb(rows)}; beside the model a step takes "
        f"{mb(step)}, with one row of each weight {mb(each)}, so {(step - each) / rows:.2f} times its rows"
    )
    return [
        row("amplify step, peak memory", "model + activations + 3 x rows", size + step, limit, ("<=", 1.0), numbers),
        row(
            "four amplify steps with validation, peak memory", "model + activations + 3 x rows",
            size + loop, limit, ("<=", 1.0), f"beside the model {mb(loop)}: the best rows are kept as well",
        ),
        row(
            "amplify step, peak memory beside the model", "gradients of whole weights, the same prompts",
            step, naive, None, f"{mb(step)} against {mb(naive)}",
        ),
        row(
            "the same with gradient checkpointing", "without", lean, step, None, f"{mb(lean)} against {mb(step)}"
        ),
    ]  # fmt: skip


def row(what: str, against: str, ours: float, naive: float, reach: tuple[str, float] | None, details: str) -> Row:
    return Row(what, against, Measured((ours / naive,)), reach, details)


def one_step(
    model: PreTrainedModel,
    anatomy: Anatomy,
    circuit: Circuit,
    pivots: Sequence[Pivot],
    rows_each: int | None = None,
    checkpointing: bool = False,
) -> None:
    owned = anatomy.rows(circuit.components)
    if rows_each is not None:
        owned = tuple(WeightRows(row.parameter, row.axis, row.indices[:rows_each]) for row in owned)
    rows = TrainableRows(model, owned)
    add_pivot_gradient(model, anatomy, rows, pivots, OBJECTIVE, BATCH, checkpointing=checkpointing)


def four_steps(model: PreTrainedModel, anatomy: Anatomy, circuit: Circuit, pivots: Sequence[Pivot]) -> None:
    accuracies = iter((0.5, 0.6, 0.7, 0.8, 0.9))
    settings = AmplifyConfig(steps=4, batch_size=BATCH)
    amplify(model, anatomy, circuit, pivots, settings, lambda: Validation(next(accuracies), 0.0, {}, in_budget=True))


def training_without_gradients(model: PreTrainedModel, anatomy: Anatomy, pivots: Sequence[Pivot]) -> None:
    weights = [model.get_parameter(name) for name in anatomy.shapes]
    handles = [weight.requires_grad_(True).register_post_accumulate_grad_hook(drop) for weight in weights]
    loss_of(model, pivots).backward()
    for handle in handles:
        handle.remove()
    model.requires_grad_(False)


def training(model: PreTrainedModel, anatomy: Anatomy, pivots: Sequence[Pivot]) -> None:
    for name in anatomy.shapes:
        model.get_parameter(name).requires_grad_(True)
    loss_of(model, pivots).backward()
    model.requires_grad_(False)
    model.zero_grad()


def drop(weight: torch.Tensor) -> None:
    weight.grad = None


def loss_of(model: PreTrainedModel, pivots: Sequence[Pivot]) -> torch.Tensor:
    lengths = [len(pivot.tokens) for pivot in pivots]
    tokens = torch.zeros(len(pivots), max(lengths), dtype=torch.long)
    for at, pivot in enumerate(pivots):
        tokens[at, : lengths[at]] = torch.tensor(pivot.tokens)
    last = model(input_ids=tokens, use_cache=False).logits[torch.arange(len(pivots)), torch.tensor(lengths) - 1]
    gaps = [last[at, pivot.desired] - last[at, pivot.undesired] for at, pivot in enumerate(pivots)]
    return OBJECTIVE(torch.stack(gaps)).mean()


def peak(run: Callable[[], None]) -> int:
    """Most bytes of torch alive at once in ``run``, beyond those alive before it."""
    run()  # what is made once and kept (tables, kernels) is no part of a step
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    assert profiler.profiler is not None
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    alive = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        alive += event.nbytes()
        most = max(most, alive)
    return most


def mb(size: float) -> str:
    return f"{size / 2**20:.1f} MiB"
