"""An amplify step: the shared few-shot prefix once, with gradient, against running every full prompt."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from benchmarks.measuring import Row, quotients
from benchmarks.models import random_llama, random_pivots
from cca.circuits.attribution import attribution_circuit, gate_gradient
from cca.circuits.circuit import Circuit, whole_model
from cca.circuits.settings import Size
from cca.gradients.pivot_gradient import OBJECTIVES, add_pivot_gradient
from cca.gradients.trainable_rows import Key, TrainableRows
from cca.models.anatomy.anatomy import Anatomy, anatomy_of
from cca.models.anatomy.weight_rows import get_rows
from cca.pivots.pivot import Pivot

PAIRS = 3
PIVOTS, SHARED, OWN = 32, 650, 40
OBJECTIVE = OBJECTIVES["softplus"]


def measure() -> list[Row]:
    model = random_llama()
    anatomy = anatomy_of(model)
    pivots = random_pivots(PIVOTS, SHARED, OWN)
    gradient = gate_gradient(model, anatomy, pivots)
    neurons = attribution_circuit(gradient, anatomy, "absolute", ["neuron"], Size.parse(30), "paper")
    return [
        against_full_prompts(model, anatomy, pivots, neurons, "30 neurons", reach=5),
        against_full_prompts(model, anatomy, pivots, whole_model(anatomy), "every component", reach=None),
    ]


def against_full_prompts(
    model: PreTrainedModel, anatomy: Anatomy, pivots: Sequence[Pivot], circuit: Circuit, what: str, reach: float | None
) -> Row:
    rows = TrainableRows(model, anatomy.rows(circuit.components, "paper"))

    def ours() -> dict[Key, Tensor]:
        for master in rows.masters.values():
            master.grad = None
        add_pivot_gradient(model, anatomy, rows, pivots, OBJECTIVE, PIVOTS)
        return {key: master.grad for key, master in rows.masters.items() if master.grad is not None}

    def naive() -> dict[Key, Tensor]:
        return naive_gradient(model, rows, pivots)

    error = difference(ours(), naive())
    return Row(
        f"amplify step on {what}, {PIVOTS} pivots, {SHARED} shared tokens and about {OWN} of each pivot's own",
        "every full prompt, and the gradients of whole weights",
        quotients(naive, ours, PAIRS, below_times=4),
        (">=", reach) if reach else None,
        f"gradients differ by at most {error:.0e} of the largest entry",
        sound=error <= 1e-5,
    )


def naive_gradient(model: PreTrainedModel, rows: TrainableRows, pivots: Sequence[Pivot]) -> dict[Key, Tensor]:
    """The rows of the gradients of whole weights, from one padded batch of full prompts."""
    weights = {name: model.get_parameter(name) for name, _ in rows.rows}
    for weight in weights.values():
        weight.requires_grad_(True)
    lengths = [len(pivot.tokens) for pivot in pivots]
    tokens = torch.zeros(len(pivots), max(lengths), dtype=torch.long)
    for row, pivot in enumerate(pivots):
        tokens[row, : lengths[row]] = torch.tensor(pivot.tokens)
    # padding on the right is never seen from the left
    logits = model(input_ids=tokens, use_cache=False).logits
    last = logits[torch.arange(len(pivots)), torch.tensor(lengths) - 1]
    desired = last.gather(1, torch.tensor([[pivot.desired] for pivot in pivots]))
    undesired = last.gather(1, torch.tensor([[pivot.undesired] for pivot in pivots]))
    loss = OBJECTIVE((desired - undesired).squeeze(1)).mean()
    gradients = dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))
    for weight in weights.values():
        weight.requires_grad_(False)
    return {key: get_rows(gradients[key[0]], key[1], row.indices) for key, row in rows.rows.items()}


def difference(found: dict[Key, Tensor], expected: dict[Key, Tensor]) -> float:
    """The largest difference of entries, as a share of the largest entry of the same weight's rows."""
    assert found.keys() == expected.keys()
    return max(float((found[key] - expected[key]).abs().max() / expected[key].abs().max()) for key in expected)
