"""Circuits that were not located: the controls that every located circuit is compared with."""

from __future__ import annotations

from collections import Counter

import torch

from cca.circuits.circuit import Circuit
from cca.models.anatomy.anatomy import Anatomy
from cca.models.anatomy.components import KINDS, Component


def random_circuit(anatomy: Anatomy, like: Circuit, generator: torch.Generator) -> Circuit:
    """As many components of each kind as ``like`` has, sampled from the whole model."""
    components = []
    for kind in KINDS:
        own = list(anatomy.components([kind]))
        sampled = torch.randperm(len(own), generator=generator)[: like.count(kind)]
        components += [own[index] for index in sampled.tolist()]
    return Circuit.of(components, "random")


def random_circuit_by_layer(anatomy: Anatomy, like: Circuit, generator: torch.Generator) -> Circuit:
    """As many components of each kind in every layer as ``like`` has.

    Against it a circuit must show that its components matter, not merely the layers they are in. Raises CcaError when
    ``like`` names components that the model lacks.
    """
    for component in like.components:
        anatomy.index(component)
    counts = Counter((component.layer, component.kind) for component in like.components)
    components = []
    for layer in range(len(anatomy.layers)):
        for kind in KINDS:
            sampled = torch.randperm(anatomy.count(layer, kind), generator=generator)[: counts[layer, kind]]
            components += [Component(layer, kind, index) for index in sampled.tolist()]
    return Circuit.of(components, "random-layers")


def whole_model(anatomy: Anatomy) -> Circuit:
    """Every component: the paper's method without its mask."""
    return Circuit.of(anatomy.components(), "all")
