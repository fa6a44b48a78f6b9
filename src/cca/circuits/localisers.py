"""Every way to locate a circuit, by name: one line each. All give a `Circuit` of the same components.

`Site` is where circuits are located: model, pivots, what to spare. It keeps what several localisers share (prefix KV,
the gate gradient), so that comparing them costs each of them only what is its own. Circuits combine as sets:
``attribution & dcm``, ``selective - random``, read from left to right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from cca.circuits.activation_statistics import importance, specific_circuit
from cca.circuits.attribution import attribution_circuit, gate_gradient, top_scored
from cca.circuits.circuit import Circuit, load_circuit
from cca.circuits.dcm import MaskSettings, train_mask
from cca.circuits.greedy import greedy_circuit
from cca.circuits.head_gating import HeadGatingSettings, learn_head_gates
from cca.circuits.integrated import integrated_gradient
from cca.circuits.random_circuits import random_circuit, whole_model
from cca.circuits.selective import gate_fisher, selective_scores
from cca.circuits.size import Size
from cca.circuits.target_size import DualPenalty, FixedPenalty, Penalty
from cca.engines.engine import Progress, Tokens
from cca.errors import CcaError
from cca.gradients.pivot_forward import PivotForward
from cca.gradients.sampled_likelihood import MOST_TEXTS, Text
from cca.gradients.training_state import Keeper
from cca.models.anatomy.anatomy import Anatomy
from cca.models.anatomy.components import KINDS
from cca.pivots.pivot import Pivot

T = TypeVar("T")


@dataclass(frozen=True)
class Choice:
    """How to locate; the names are those of a run's ``circuit`` section."""

    localiser: str = "attribution"
    sign: str = "absolute"
    kinds: tuple[str, ...] = ("neuron",)
    size: str | int = "0.5% of parameters"
    file: Path | None = None
    gate: str = "double"
    learning_rate: float = 5e-3
    decay_every: int = 5
    decay: float = 0.9
    epochs: int = 50
    batch_size: int = 8
    penalty: float = 0.01
    initial: float = 1.0
    threshold: float = 0.5
    relaxation: str = "clamp"
    penalty_for: str = "coefficient"
    """dcm: keep the penalty at its coefficient, or adapt it until the mask has ``size``."""

    @staticmethod
    def of(settings: Any) -> Choice:
        """From any object with attributes of these names."""
        return Choice(
            **{f.name: getattr(settings, f.name) for f in fields(Choice) if hasattr(settings, f.name)}
        )


@dataclass
class Site:
    """``spared``: (prompt, solution) tokens of other skills, for localisers that look at what to leave alone."""

    model: PreTrainedModel
    anatomy: Anatomy
    pivots: Sequence[Pivot]
    spared: Sequence[Text] = ()
    rows: str = "paper"
    seed: int = 0
    batch_size: int = 32
    progress: Progress | None = None
    promising: Callable[[Choice], Circuit] | None = None
    """The circuit of the rows that promise most; it takes row gradients, which are made by a later stage."""
    keeper: Callable[[str], Keeper] | None = None
    """Keeps the training of a mask, by a text that says which it is."""
    _shared: dict[str, Any] = field(default_factory=dict)

    @property
    def forward(self) -> PivotForward:
        return self.remembered(
            "forward", lambda: PivotForward(self.model, self.anatomy, self.pivots, self.batch_size)
        )

    @property
    def gradient(self) -> Tensor:
        """d mean(logit gap) / d gate factor at "no change", (anatomy.size,)."""
        return self.remembered(
            "gradient",
            lambda: gate_gradient(self.model, self.anatomy, self.pivots, self.batch_size, self.progress),
        )

    def remembered(self, key: str, make: Callable[[], T]) -> T:
        """The value made the first time this key was asked for, here or at a site made of this one."""
        if key not in self._shared:
            self._shared[key] = make()
        return self._shared[key]

    def with_rows(self, rows: str) -> Site:
        """The same site for another row mode: what it has computed does not depend on that."""
        return replace(self, rows=rows)

    def generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)


Localiser = Callable[[Site, Choice], Circuit]


def locate(site: Site, choice: Choice) -> Circuit:
    """The circuit of ``choice``. Raises CcaError for an unknown name, and when nothing is chosen."""
    first, *rest = choice.localiser.split()
    circuit = _one(first, site, choice)
    if len(rest) % 2:
        raise CcaError(f"localiser: expected names joined by |, & or -, got {choice.localiser!r:.80}")
    for sign, name in zip(rest[::2], rest[1::2], strict=True):
        other = _one(name, site, choice)
        match sign:
            case "|":
                circuit = circuit | other
            case "&":
                circuit = circuit & other
            case "-":
                circuit = circuit - other
            case _:
                raise CcaError(f"localiser: expected names joined by |, & or -, got {choice.localiser!r:.80}")
    if not len(circuit):
        raise CcaError(
            f"circuit: {choice.localiser} chose no component; lower circuit.penalty or ask for a larger size"
        )
    return circuit


def check_localiser(text: str) -> None:
    """Raise CcaError unless ``text`` names localisers, joined by set operations."""
    parts = text.split()
    for name in parts[::2] or [text]:
        if name not in LOCALISERS:
            raise CcaError(f"localiser: expected one of {', '.join(LOCALISERS)}, got {name!r:.80}")
    if len(parts) % 2 == 0 or any(sign not in ("|", "&", "-") for sign in parts[1::2]):
        raise CcaError(f"localiser: expected names joined by |, & or -, got {text!r:.80}")


def _one(name: str, site: Site, choice: Choice) -> Circuit:
    check_localiser(name)
    return LOCALISERS[name](site, choice)


def _attribution(site: Site, choice: Choice) -> Circuit:
    size = Size.parse(choice.size)
    return attribution_circuit(site.gradient, site.anatomy, choice.sign, choice.kinds, size, site.rows)


def _dcm(site: Site, choice: Choice) -> Circuit:
    """The paper's own mask, or another relaxation of it, or one whose penalty aims at a size."""
    own = {f.name: getattr(choice, f.name) for f in fields(MaskSettings) if f.name != "seed"}
    settings = MaskSettings(seed=site.seed, **own)
    forward = site.remembered(
        f"forward {settings.batch_size}",
        lambda: PivotForward(site.model, site.anatomy, site.pivots, settings.batch_size),
    )
    penalty: Penalty = FixedPenalty(settings.penalty)
    if choice.penalty_for == "size":
        target = sum(Size.parse(choice.size).counts(site.anatomy, KINDS, site.rows).values())
        penalty = DualPenalty(target, start=max(settings.penalty, 1e-6))
    keeper = (
        site.keeper(repr((settings, choice.relaxation, choice.penalty_for, choice.size)))
        if site.keeper
        else None
    )
    mask = train_mask(forward, settings, choice.relaxation, penalty, site.progress, keeper=keeper)
    return mask.circuit(site.anatomy, choice.threshold)


def _random(site: Site, choice: Choice) -> Circuit:
    counts = Size.parse(choice.size).counts(site.anatomy, choice.kinds, site.rows)
    first = [c for kind, count in counts.items() for c in list(site.anatomy.components([kind]))[:count]]
    return random_circuit(site.anatomy, Circuit.of(first, "size"), site.generator())


def _all(site: Site, choice: Choice) -> Circuit:
    del choice
    return whole_model(site.anatomy)


def _file(site: Site, choice: Choice) -> Circuit:
    if choice.file is None:
        raise CcaError("circuit.localiser file: expected circuit.file to name a circuit file, got none")
    given = load_circuit(choice.file)
    site.anatomy.rows(given.components)  # refuses components the model lacks
    return given


def _integrated(site: Site, choice: Choice) -> Circuit:
    gradient = site.remembered("integrated", lambda: integrated_gradient(site.forward))
    scores = gradient.abs() if choice.sign == "absolute" else gradient
    return _top(site, choice, scores, f"integrated-{choice.sign}")


def _selective(site: Site, choice: Choice) -> Circuit:
    fisher = site.remembered(
        "fisher",
        lambda: gate_fisher(
            site.model, site.anatomy, site.spared, site.generator(), min(MOST_TEXTS, site.batch_size)
        ),
    )
    return _top(site, choice, selective_scores(site.gradient, fisher), "selective")


def _activation(site: Site, choice: Choice) -> Circuit:
    def of(texts: Sequence[Tokens]) -> Tensor:
        return importance(site.model, site.anatomy, texts)

    task = site.remembered("importance here", lambda: of([pivot.tokens for pivot in site.pivots]))
    other = site.remembered("importance elsewhere", lambda: of([p + s for p, s in site.spared]))
    counts = Size.parse(choice.size).counts(site.anatomy, choice.kinds, site.rows)
    return specific_circuit(task, other, site.anatomy, counts)


def _head_gating(site: Site, choice: Choice) -> Circuit:
    """``kinds`` are gated and chosen from; ``epochs`` and the like are its own."""
    settings = HeadGatingSettings(seed=site.seed)
    gates = site.remembered(
        f"head gates {choice.kinds}", lambda: learn_head_gates(site.forward, choice.kinds, settings)
    )
    return _top(site, choice, gates.scores(choice.sign), f"head-gating-{choice.sign}")


def _greedy(site: Site, choice: Choice) -> Circuit:
    counts = Size.parse(choice.size).counts(site.anatomy, choice.kinds, site.rows)
    return greedy_circuit(site.forward, site.gradient, choice.kinds, sum(counts.values()))


def _natural(site: Site, choice: Choice) -> Circuit:
    if site.promising is None:
        raise CcaError("localiser natural: expected a site that knows row gradients, got one of gates alone")
    return site.promising(choice)


def _top(site: Site, choice: Choice, scores: Tensor, method: str) -> Circuit:
    return top_scored(scores, site.anatomy, method, choice.kinds, Size.parse(choice.size), site.rows)


LOCALISERS: dict[str, Localiser] = {
    "attribution": _attribution,
    "integrated": _integrated,
    "selective": _selective,
    "natural": _natural,
    "dcm": _dcm,
    "activation": _activation,
    "head-gating": _head_gating,
    "greedy": _greedy,
    "random": _random,
    "all": _all,
    "file": _file,
}
