"""What stages cost on hardware that is not at hand: from a model's shape and a device's data sheet.

`cca plan` meters the machine it runs on; this gives the same quantities (`Speed`, for the same `Work`) by roofline
arithmetic instead, so that a cluster can be judged from a laptop. docs/scaling.md derives the formulas and says how
far they were held against measurements. N is the number of parameters; seconds throughout.

* A forward pass of n tokens takes 2 N n operations, a backward pass that reaches no weight but a few rows 2 N n more.
* Every pass reads all weights once, and attention the keys and values of what it attends to.
* Every pass costs so much a layer whatever its size: kernel launches, Python.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from cca.gradients.fisher import SAMPLES
from cca.models.anatomy.anatomy import Anatomy
from cca.runs.decoding_cost import Speed, Work

TEXTS = 16
"""Texts a pass, of those that the Fisher information is sampled on."""


@dataclass(frozen=True)
class Shape:
    """A model as its cost sees it."""

    parameters: float
    layers: int
    kv_values: int
    """Values of keys and values a token, all layers together."""
    bytes: int = 2
    """A value."""

    @staticmethod
    def of(anatomy: Anatomy, bytes: int) -> Shape:
        kv = sum(layer.n_kv_heads * (layer.head_dim + layer.v_head_dim) for layer in anatomy.layers)
        return Shape(anatomy.total_parameters, len(anatomy.layers), kv, bytes)

    @property
    def weight_bytes(self) -> float:
        return self.parameters * self.bytes

    @property
    def kv_bytes(self) -> int:
        """A token."""
        return self.kv_values * self.bytes


@dataclass(frozen=True)
class Hardware:
    """The devices that hold one copy of the model, and how many copies there are.

    ``flops`` and ``bandwidth`` are what one device reaches, not its peak. ``gather`` is the bytes a second at which a
    device gets weights that others hold, where a copy is spread over several (FSDP); 0: it holds what it needs.
    """

    flops: float
    bandwidth: float
    layer_pass: float
    """Seconds a layer and pass cost whatever their size."""
    copies: int = 1
    spread: int = 1
    """Devices a copy's weights are spread over; each computes for itself."""
    gather: float = 0.0

    def a_pass(self, shape: Shape) -> float:
        """Seconds of a forward pass before its first token: weights read or gathered, layers called."""
        gathered = shape.weight_bytes * (1 - 1 / self.spread) / self.gather if self.spread > 1 else 0.0
        return max(gathered, shape.weight_bytes / self.bandwidth) + shape.layers * self.layer_pass

    def tokens(self, shape: Shape, count: float) -> float:
        """Seconds that ``count`` tokens add to a forward pass."""
        return 2 * shape.parameters * count / self.flops


def speed(shape: Shape, hardware: Hardware, context: float) -> Speed:
    """Seconds of decoding by one process, as `cca plan` fits them. ``context``: tokens attended to, on average."""
    token = hardware.tokens(shape, 1) + context * shape.kv_bytes / hardware.bandwidth
    read = hardware.tokens(shape, 1)
    return Speed((hardware.a_pass(shape), token, read, 0.0, read))


def generation(shape: Shape, hardware: Hardware, work: Work, context: float) -> float:
    """Seconds of decoding ``work`` shared out over the copies, batch by batch."""
    return speed(shape, hardware, context).seconds(work) / hardware.copies


@dataclass(frozen=True)
class PivotWork:
    """``shared`` tokens (few-shot examples) that all ``count`` pivots have, ``own`` of each on average."""

    count: float
    shared: float
    own: float

    @property
    def tokens(self) -> float:
        """Computed once: the shared prefix, and each pivot's own."""
        return self.shared + self.count * self.own

    def prefix_bytes(self, shape: Shape) -> float:
        """Keys and values that masking keeps."""
        return self.tokens * shape.kv_bytes


def masking(
    shape: Shape, hardware: Hardware, pivots: PivotWork, epochs: int, batch: int, prefill_batch: int = 8
) -> tuple[float, float]:
    """Seconds of (the prefixes, all epochs): a forward and backward pass of one token a pivot in each epoch.

    A batch's pivots are shared out over the copies, but not the reading of weights, which is most of a step's time.
    """
    copies = hardware.copies
    fills = math.ceil(pivots.count / prefill_batch)
    prefixes = fills * hardware.a_pass(shape) + hardware.tokens(shape, pivots.shared)
    prefixes += hardware.tokens(shape, pivots.count * pivots.own) / copies
    steps = epochs * math.ceil(pivots.count / batch)
    each = min(batch, pivots.count) / copies
    attended = each * (pivots.shared + pivots.own) * shape.kv_bytes / hardware.bandwidth
    return prefixes, steps * 2 * (hardware.a_pass(shape) + hardware.tokens(shape, each) + attended)


def attribution(shape: Shape, hardware: Hardware, pivots: PivotWork, batch: int = 32) -> tuple[float, float]:
    """Seconds of (the prefixes, one epoch)."""
    return masking(shape, hardware, pivots, epochs=1, batch=batch, prefill_batch=batch)


def amplify_step(shape: Shape, hardware: Hardware, pivots: PivotWork, batch: int = 32) -> float:
    """Seconds of one gradient step: the shared prefix forwards and back on every copy, the rest shared out."""
    passes = 1 + math.ceil(pivots.count / (batch * hardware.copies))
    tokens = pivots.shared + pivots.count * pivots.own / hardware.copies
    return 2 * (passes * hardware.a_pass(shape) + hardware.tokens(shape, tokens))


def whitening(shape: Shape, hardware: Hardware, texts: int, tokens: float, batch: int = TEXTS) -> float:
    """Seconds of the Fisher information of ``texts``, of ``tokens`` each: every sample a pass forwards and back.

    The Cholesky factors of the layers are left out.
    """
    passes = math.ceil(SAMPLES * math.ceil(texts / batch) / hardware.copies)
    read = SAMPLES * texts * tokens / hardware.copies
    return 2 * (passes * hardware.a_pass(shape) + hardware.tokens(shape, read))


def natural(
    shape: Shape, hardware: Hardware, pivots: PivotWork, texts: int, tokens: float, groups: int = 1
) -> float:
    """Seconds of the natural circuit: a step and the Fisher information, once a group of layers."""
    return groups * (amplify_step(shape, hardware, pivots) + whitening(shape, hardware, texts, tokens))
