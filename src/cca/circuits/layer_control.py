"""A random circuit that has as many components of each kind in every layer as another has.

Against it a circuit must show that the components matter, not merely the layers they are in.
"""

from __future__ import annotations

from collections import Counter

import torch

from cca.circuits.circuit import Circuit
from cca.models.anatomy.anatomy import Anatomy
from cca.models.anatomy.components import KINDS, Component


def random_circuit_by_layer(anatomy: Anatomy, like: Circuit, generator: torch.Generator) -> Circuit:
    """Raises CcaError when ``like`` names components that the model lacks."""
    for component in like.components:
        anatomy.index(component)
    counts = Counter((component.layer, component.kind) for component in like.components)
    components = []
    for layer in range(len(anatomy.layers)):
        for kind in KINDS:
            drawn = torch.randperm(anatomy.count(layer, kind), generator=generator)[: counts[layer, kind]]
            components += [Component(layer, kind, index) for index in drawn.tolist()]
    return Circuit.of(components, "random-layers")
