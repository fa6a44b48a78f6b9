"""Parts of a typed JSON file that nobody vouches for: units, tolerant reading, faults in one line, and the figures that
the evaluate stage measures.

A key that is missing or null reads as its default, so that a partial or older file still loads; unknown keys are kept.
A value of the wrong type is refused, and named by its path.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Strict, ValidationError, model_validator

from cca.errors import CcaError


class Part(BaseModel):
    """An object of such a file. The texts under the fields are its documentation."""

    model_config = ConfigDict(extra="allow", frozen=True, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _null_is_missing(cls, given: Any) -> Any:
        return _without_nulls(given)

    @classmethod
    def from_json(cls, given: Mapping[str, Any], name: str = "report") -> Self:
        """The part that ``given`` holds. Raises CcaError naming the first value of a wrong type, under ``name``."""
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            raise CcaError(_first_fault(error, name)) from error


@dataclass(frozen=True)
class Unit:
    """What a number counts, for the documentation."""

    name: str


def _finite(value: Any) -> float:
    largest = sys.float_info.max
    # The comparison is exact for whole numbers too large for a float, and false for NaN.
    if isinstance(value, bool) or not isinstance(value, int | float) or not -largest <= value <= largest:
        raise ValueError(f"expected a finite number, got {_shown(value)}")
    return float(value)


def _whole(value: Any) -> int:
    number = _finite(value)
    if number != int(number):
        raise ValueError(f"expected a whole number, got {_shown(value)}")
    return int(number)


def _ends(value: Any) -> tuple[float, float]:
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 2:
        low, high = map(_finite, value)
        if low <= high:
            return low, high
    raise ValueError(f"expected [low, high], got {_shown(value)}")


def _without_nulls(value: Any) -> Any:
    return {key: own for key, own in value.items() if own is not None} if isinstance(value, Mapping) else value


Number = Annotated[float, BeforeValidator(_finite)]
Fraction = Annotated[float, BeforeValidator(_finite), Unit("fraction")]
Points = Annotated[float, BeforeValidator(_finite), Unit("points")]
Nats = Annotated[float, BeforeValidator(_finite), Unit("nats per token")]
Seconds = Annotated[float, BeforeValidator(_finite), Unit("seconds")]
Count = Annotated[int, BeforeValidator(_whole), Unit("count")]
Step = Annotated[int, BeforeValidator(_whole), Unit("step")]
Flag = Annotated[bool, Strict(), Unit("true, false")]
FractionInterval = Annotated[tuple[float, float], BeforeValidator(_ends), Unit("fractions")]
PointsInterval = Annotated[tuple[float, float], BeforeValidator(_ends), Unit("points")]
NatsInterval = Annotated[tuple[float, float], BeforeValidator(_ends), Unit("nats per token")]
NO_NULLS = BeforeValidator(_without_nulls)
"""For a mapping by name: a name whose value is null is missing."""

EXPECTED = {
    "model_type": "an object", "model_attributes_type": "an object", "dict_type": "an object",
    "list_type": "a list", "tuple_type": "a list", "string_type": "a text", "bool_type": "true or false",
    "missing": "a value",
}  # fmt: skip


def _first_fault(error: ValidationError, name: str) -> str:
    fault = error.errors()[0]
    where = name + "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in fault["loc"])
    if fault["type"] == "value_error":
        said = fault["msg"].removeprefix("Value error, ")
    else:
        expected = EXPECTED.get(fault["type"], fault["msg"].lower())
        said = f"expected {expected}, got {_shown(fault['input'])}"
    return f"{where}: {said}; is the file damaged?"


def _shown(value: Any) -> str:
    # repr of a huge integer is refused by Python, and a long one helps nobody
    if isinstance(value, int) and abs(value) > 10**40:
        return "a huge number"
    try:
        return repr(value)[:80]
    except ValueError:
        return "something with a huge number in it"


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


class Change(Part):
    points: Points | None = None
    """Patched minus base."""
    interval: PointsInterval | None = None
    """Of the change, paired."""
    p_value: Number | None = None
    """Two-sided, over templates: sign flips, or Student's t below six. In version 1 the McNemar test."""
    gained: Count | None = None
    """Problems that only the patched model solves."""
    lost: Count | None = None
    """Problems that only the base solves."""


class Gain(Change):
    mcnemar_p: Number | None = None
    """Two-sided exact McNemar test, as if problems were independent."""


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

    @property
    def points(self) -> float | None:
        """The gain in percentage points."""
        return None if self.base is None or self.patched is None else 100 * (self.patched - self.base)


class Drift(Part):
    kl: Nats | None = None
    """Drift over the solutions of all retention sets, each token counted once; null: not measured."""
    tokens: Count | None = None
    """Tokens that it is the mean of."""


class Skill(Change):
    base: Fraction | None = None
    """The base's accuracy on the reported half of this retention set (the other half guards the budget)."""
    patched: Fraction | None = None
    """The patched model's."""
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
