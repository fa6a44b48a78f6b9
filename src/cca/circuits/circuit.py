"""A Circuit: a set of components of one model, with the scores that chose them, and its share of the model."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from cca.errors import CcaError
from cca.files import Row, fingerprint, read_rows, write_rows
from cca.models.anatomy.anatomy import Anatomy
from cca.models.anatomy.components import KINDS, Component

FORMAT, VERSION = "cca.circuit", 1
LONGEST_NAME = 40


@dataclass(frozen=True)
class Circuit:
    """``components`` are sorted and unique; ``scores`` has the number of each that was scored, higher = first."""

    components: tuple[Component, ...]
    method: str
    scores: Mapping[Component, float] = field(default_factory=dict)

    @staticmethod
    def of(components: Iterable[Component], method: str, scores: Mapping[Component, float] | None = None) -> Circuit:
        chosen = tuple(sorted(set(components)))
        known = scores or {}
        return Circuit(chosen, method, {c: float(known[c]) for c in chosen if c in known})

    def __len__(self) -> int:
        return len(self.components)

    def __or__(self, other: Circuit) -> Circuit:
        return self._combined(other, "|", {*self.components, *other.components})

    def __and__(self, other: Circuit) -> Circuit:
        return self._combined(other, "&", set(self.components) & set(other.components))

    def __sub__(self, other: Circuit) -> Circuit:
        return self._combined(other, "-", set(self.components) - set(other.components))

    def count(self, kind: str) -> int:
        return sum(component.kind == kind for component in self.components)

    @property
    def fingerprint(self) -> str:
        return fingerprint([str(component) for component in self.components])

    def _combined(self, other: Circuit, sign: str, components: set[Component]) -> Circuit:
        return Circuit.of(components, f"({self.method} {sign} {other.method})", {**other.scores, **self.scores})


def shares(circuit: Circuit, anatomy: Anatomy, rows: str = "paper") -> dict[str, float]:
    """A circuit's shares of the model: of all components, of the heads, of the neurons, of the parameters it trains."""
    heads = [kind for kind in KINDS if kind != "neuron"]
    total = {kind: sum(anatomy.count(layer.index, kind) for layer in anatomy.layers) for kind in KINDS}
    head_total = sum(total[kind] for kind in heads)
    return {
        "components": len(circuit) / anatomy.size,
        "heads": sum(circuit.count(kind) for kind in heads) / head_total if head_total else 0.0,
        "neurons": circuit.count("neuron") / total["neuron"] if total["neuron"] else 0.0,
        "parameters": anatomy.parameter_count(circuit.components, rows) / anatomy.total_parameters,
    }


def save_circuit(path: Path, circuit: Circuit, **header: object) -> None:
    rows = [{"component": str(c), "score": _checked_score(str(c), circuit.scores.get(c))} for c in circuit.components]
    write_rows(path, FORMAT, VERSION, rows, method=circuit.method, **header)


def load_circuit(path: Path) -> Circuit:
    """Read a circuit file. Raises CcaError for anything that is not one."""
    header, rows = read_rows(path, FORMAT, VERSION)
    method = header.get("method", "file")
    if not isinstance(method, str):
        raise CcaError(f"{path}: expected the header's method to be a text, got {method!r:.80}")
    scores: dict[Component, float | None] = {}
    for row in rows:
        try:
            component = Component.parse(_checked_name(row))
            score = _checked_score(str(component), row.get("score"))
        except CcaError as error:
            raise CcaError(f"{path}: {error}") from error
        if component in scores:
            raise CcaError(f"{path}: expected every component once, got {component} twice")
        scores[component] = score
    return Circuit.of(scores, method, {c: score for c, score in scores.items() if score is not None})


def _checked_name(row: Row) -> str:
    name = row.get("component")
    if not isinstance(name, str) or len(name) > LONGEST_NAME:
        raise CcaError(f"expected rows with a component and its score, got {str(row)!r:.120}")
    return name


def _checked_score(name: str, score: object) -> float | None:
    if score is None:
        return None
    if isinstance(score, bool) or not isinstance(score, int | float):
        raise CcaError(f"{name}: expected a number as its score or none, got {score!r:.40}")
    if not abs(score) <= sys.float_info.max:  # a whole number may be larger too
        raise CcaError(f"{name}: expected a finite score, got {score!r:.40}")
    return float(score)


def random_circuit(anatomy: Anatomy, like: Circuit, generator: torch.Generator) -> Circuit:
    """A circuit with as many components of each kind as ``like`` has, sampled from the whole model."""
    components = []
    for kind in KINDS:
        own = list(anatomy.components([kind]))
        sampled = torch.randperm(len(own), generator=generator)[: like.count(kind)]
        components += [own[index] for index in sampled.tolist()]
    return Circuit.of(components, "random")


def random_circuit_by_layer(anatomy: Anatomy, like: Circuit, generator: torch.Generator) -> Circuit:
    """A circuit with as many components of each kind in every layer as ``like`` has.

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
