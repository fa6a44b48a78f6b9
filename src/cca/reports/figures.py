"""The figures of a report that the evaluate stage measures."""

from __future__ import annotations

from cca.reports.parts import (
    Count,
    Flag,
    Fraction,
    FractionInterval,
    Nats,
    Number,
    Part,
    Points,
    PointsInterval,
)


class Accuracy(Part):
    accuracy: Fraction | None = None
    """Greedy accuracy on the test problems."""
    interval: FractionInterval | None = None
    """Its interval."""
    unreadable: Fraction | None = None
    """Answers in which the judge found nothing to compare; they count as wrong."""
    cut_off: Fraction | None = None
    """Of these, the answers that were cut off at the longest completion."""
    problems: Count | None = None
    """Test problems, the same ones for base and patched."""


class Gain(Part):
    points: Points | None = None
    """Patched minus base."""
    interval: PointsInterval | None = None
    """Of the gain, paired."""
    p_value: Number | None = None
    """Two-sided, over templates: sign flips, or Student's t below six. In version 1 the McNemar test."""
    mcnemar_p: Number | None = None
    """Two-sided exact McNemar test, as if problems were independent."""
    gained: Count | None = None
    """Problems that only the patched model solves."""
    lost: Count | None = None
    """Problems that only the base solves."""


class TestPart(Part):
    __test__ = False  # no test of pytest's

    problems: Count | None = None
    """Test problems of this part."""
    templates: Count | None = None
    """Their templates."""
    base: Fraction | None = None
    """The base's accuracy on this part."""
    patched: Fraction | None = None
    """The patched model's."""
    gain: Gain = Gain()
    """As `gain`, on this part."""


class TemplateAccuracy(Part):
    template: str = ""
    """Its name."""
    problems: Count | None = None
    """Its test problems."""
    base: Fraction | None = None
    """The base's accuracy on it."""
    patched: Fraction | None = None
    """The patched model's."""
    seen: Flag | None = None
    """True when the training data has this template."""


class Drift(Part):
    kl: Nats | None = None
    """Drift over the solutions of all retention sets, each token counted once; null: not measured."""
    tokens: Count | None = None
    """Tokens that it is the mean of."""


class Skill(Part):
    base: Fraction | None = None
    """The base's accuracy on the reported half of this retention set (the other half guards the budget)."""
    patched: Fraction | None = None
    """The patched model's."""
    points: Points | None = None
    """Its change."""
    interval: PointsInterval | None = None
    """Of the change, paired."""
    p_value: Number | None = None
    """Of the change, as in `gain`."""
    problems: Count | None = None
    """Problems in the reported half."""
    drift: Nats | None = None
    """Drift on their solutions."""


class Share(Part):
    parameters: Fraction | None = None
    """Parameters that were trained, of all."""
    neurons: Fraction | None = None
    """Neurons in the circuit, of all neurons."""
    heads: Fraction | None = None
    """Heads in the circuit, of all heads."""
    components: Fraction | None = None
    """Components in the circuit, of all heads and neurons."""


class CircuitSummary(Part):
    components: Count | None = None
    """Size of the circuit."""
    method: str | None = None
    """The localiser that found it."""


class LayerSize(Part):
    q: Count = 0
    """Query heads."""
    k: Count = 0
    """Key heads."""
    v: Count = 0
    """Value heads."""
    neuron: Count = 0
    """MLP neurons."""


class ModelSize(Part):
    layers: tuple[LayerSize, ...] = ()
    """Components of each layer, by kind."""


class PlantedPivots(Part):
    planted: Count | None = None
    """Problems with a planted wrong move."""
    found: Count | None = None
    """Pivots on such problems."""
    precision: Fraction | None = None
    """Of `found`, those with the planted prefix and the planted two tokens."""
    recall: Fraction | None = None
    """Of `planted`, those whose planted pivot was found."""
    precision_of_place: Fraction | None = None
    """Of `found`, those with the planted prefix, whatever their tokens."""


class PivotSummary(Part):
    count: Count | None = None
    """Pivots used."""
    planted: PlantedPivots | None = None
    """Only where the training problems carry planted wrong moves."""
