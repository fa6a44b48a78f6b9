"""Circuits that were not located: the controls every located circuit is held against."""

from __future__ import annotations

import torch

from cca.circuits.circuit import Circuit
from cca.models.anatomy.anatomy import Anatomy
from cca.models.anatomy.components import KINDS


def random_circuit(anatomy: Anatomy, like: Circuit, generator: torch.Generator) -> Circuit:
    """As many components of each kind as ``like`` has, drawn from the whole model."""
    components = []
    for kind in KINDS:
        own = list(anatomy.components([kind]))
        drawn = torch.randperm(len(own), generator=generator)[: like.count(kind)]
        components += [own[place] for place in drawn.tolist()]
    return Circuit.of(components, "random")


def whole_model(anatomy: Anatomy) -> Circuit:
    """Every component: the paper's method without its mask."""
    return Circuit.of(anatomy.components(), "all")
