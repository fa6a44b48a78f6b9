"""Scaling of a circuit's activations by a constant, without training: amplification taken literally.

At every position a neuron's activation times c is its down column times c, and a V head's output times c is its rows
(and bias) times c, so the scaling is an edit of weights, exactly. The gates of Q and K heads act after q/k norm and
rotary embedding; where a model has that norm no scaling of weights equals them, so circuits are of neurons and V heads.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import PreTrainedModel

from cca.circuits.circuit import Circuit
from cca.errors import CcaError
from cca.models.anatomy.anatomy import Anatomy
from cca.models.anatomy.weight_rows import EACH, WeightRows, get_rows, set_rows_

SCALED = {"neuron": "down", "v": "v"}
"""Kind of component -> role of the weights that its activation scales with."""


def scaled_rows(anatomy: Anatomy, circuit: Circuit) -> list[WeightRows]:
    """The rows whose product with c scales the circuit's activations by c. Raises CcaError for Q and K heads."""
    other = sorted({component.kind for component in circuit.components} - SCALED.keys())
    if other:
        raise CcaError(f"scaling: expected a circuit of neurons and V heads, got {', '.join(other)} heads in it")
    units: dict[tuple[int, str], list[int]] = {}
    for component in circuit.components:
        units.setdefault((component.layer, component.kind), []).append(component.index)
    owned: dict[tuple[str, int], list[Tensor]] = {}
    for layer in anatomy.layers:
        for pattern in layer.patterns:
            if SCALED.get(pattern.kind) != pattern.role:
                continue
            own = torch.tensor(units.get((layer.index, pattern.kind), []), dtype=torch.long) - pattern.first
            own = own[(own >= 0) & (own < pattern.n)]
            if not len(own):
                continue
            indices = pattern.indices(own).flatten()
            owned.setdefault((pattern.weight, pattern.axis), []).append(indices)
            if pattern.role == "v" and pattern.bias is not None:  # a down projection's bias is nobody's
                axis = EACH if len(anatomy.shapes[pattern.bias]) > 1 else 0
                owned.setdefault((pattern.bias, axis), []).append(indices)
    return [WeightRows(name, axis, torch.cat(parts).unique(sorted=True)) for (name, axis), parts in owned.items()]


@contextmanager
def scaled(model: PreTrainedModel, anatomy: Anatomy, circuit: Circuit, factor: float) -> Iterator[None]:
    """Within the block the circuit's activations are multiplied by ``factor`` at every position."""
    rows = scaled_rows(anatomy, circuit)
    before = [get_rows(model.get_parameter(row.parameter).detach(), row.axis, row.indices) for row in rows]
    try:
        _write(model, rows, [values * factor for values in before])
        yield
    finally:
        _write(model, rows, before)


def _write(model: PreTrainedModel, rows: list[WeightRows], values: list[Tensor]) -> None:
    for row, own in zip(rows, values, strict=True):
        set_rows_(model.get_parameter(row.parameter), row.axis, row.indices, own)
