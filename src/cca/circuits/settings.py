"""The ``circuit`` section of a configuration: what locates the circuit, and how."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from cca.errors import CcaError
from cca.models.anatomy.components import KINDS
from cca.section import Section

if TYPE_CHECKING:
    from cca.models.anatomy.anatomy import Anatomy


LOCALISERS: dict[str, str | Callable[..., Any]] = {
    "attribution": "cca.circuits.localisers:attribution",
    "integrated": "cca.circuits.localisers:integrated",
    "selective": "cca.circuits.localisers:selective",
    "natural": "cca.circuits.localisers:natural",
    "dcm": "cca.circuits.localisers:dcm",
    "random": "cca.circuits.localisers:random_components",
    "all": "cca.circuits.localisers:all_components",
    "file": "cca.circuits.localisers:read_from_file",
}
"""Name -> a `cca.circuits.localisers.Localiser`, or the ``module:function`` of one, which is loaded on first use."""
OPERATIONS = ("|", "&", "-")
"""Set operations that join localisers: union, intersection, difference."""


class CircuitConfig(Section):
    localiser: str = Field(
        default="auto",
        description=f"The localiser that picks the components: {', '.join(LOCALISERS)}, or several joined by "
        "|, & or -; auto: natural with retention sets, else attribution.",
        json_schema_extra={"examples": ["auto", *LOCALISERS]},
    )

    @field_validator("localiser")
    @classmethod
    def _known(cls, localiser: str) -> str:
        if localiser != "auto":
            check_localiser(localiser)
        return localiser

    sign: Literal["absolute", "signed"] = "absolute"
    """attribution, integrated: rank by the size of the gate gradient, or by its value."""
    kinds: tuple[Literal["q", "k", "v", "neuron"], ...] | None = None
    """Kinds to choose from; by default all for natural, neurons for others; all, dcm and file ignore it."""
    size: str | int = "2% of parameters"
    """A number of components, 'N% of components' or 'N% of parameters'; all, file and dcm by coefficient ignore it."""

    @field_validator("size")
    @classmethod
    def _readable(cls, size: str | int) -> str | int:
        Size.parse(size)
        return size

    file: Path | None = None
    """file: the circuit file to use."""
    gate: Literal["double", "amplify", "ablate"] = "double"
    """dcm: what a gate value m does to an activation: 2m, 1+m or m."""
    learning_rate: float = Field(default=5e-3, gt=0)
    """dcm: Adam's learning rate."""
    decay_every: int = Field(default=5, ge=1)
    """dcm: epochs between two decays of the learning rate."""
    decay: float = Field(default=0.9, gt=0, le=1)
    """dcm: factor of each decay."""
    epochs: int = Field(default=50, ge=1)
    """dcm: passes over the pivots."""
    batch_size: int = Field(default=8, ge=1)
    """dcm: pivots per step."""
    penalty: float = Field(default=0.01, ge=0)
    """dcm: L1 coefficient on the gates (paper: swept from 1e-4 to 1e-1)."""
    initial: float = Field(default=1.0, ge=0, le=1)
    """dcm: gate value to start from."""
    threshold: float = Field(default=0.5, ge=0, lt=1)
    """dcm: a gate above it puts its component into the circuit."""
    relaxation: Literal["clamp", "hard-concrete", "annealed"] = "clamp"
    """dcm: how gates are trained: clamped to [0, 1] (paper), L0 by hard-concrete draws, or an annealed sigmoid."""
    penalty_for: Literal["coefficient", "size"] = "coefficient"
    """dcm: keep the penalty as it is, or adapt it until the mask has 'size' components of all kinds."""


def check_localiser(text: str) -> None:
    """Raise CcaError unless ``text`` names localisers, joined by set operations."""
    names, signs = text.split()[::2] or [text], text.split()[1::2]
    for name in names:
        if name not in LOCALISERS:
            raise CcaError(f"localiser: expected one of {', '.join(LOCALISERS)}, got {name!r:.80}")
    if len(signs) != len(names) - 1 or any(sign not in OPERATIONS for sign in signs):
        raise CcaError(f"localiser: expected names joined by |, & or -, got {text!r:.80}")


def resolve_auto(settings: CircuitConfig, has_texts: bool) -> CircuitConfig:
    """Fill in ``localiser: auto`` and the default kinds; natural needs text of other skills (``has_texts``)."""
    localiser = settings.localiser
    if localiser == "auto":
        localiser = "natural" if has_texts else "attribution"
    kinds = settings.kinds or (KINDS if "natural" in localiser.split() else ("neuron",))
    return settings.model_copy(update={"localiser": localiser, "kinds": kinds})


_SHARE = re.compile(r"(\d+(?:\.\d+)?)\s*%(?:\s+of\s+(components|parameters))?", re.ASCII)


@dataclass(frozen=True)
class Size:
    """``amount`` components when ``of`` is "count", else a fraction of components or parameters."""

    amount: float
    of: str

    @staticmethod
    def parse(text: str | int) -> Size:
        """Read a size. Raises CcaError unless it is a whole number above 0 or a share between 0 and 100 %."""
        written = str(text).strip()
        if written.isascii() and written.isdigit() and int(written) > 0:
            return Size(int(written), "count")
        match = _SHARE.fullmatch(written)
        if match and 0 < float(match[1]) <= 100:
            return Size(float(match[1]) / 100, match[2] or "components")
        raise CcaError(
            f"circuit size: expected a size such as 32, '1% of components' or '0.5% of parameters', got {text!r}"
        )

    def counts(self, anatomy: Anatomy, kinds: Sequence[str], rows: str) -> dict[str, int]:
        """The number of components of each kind, at least one in all.

        ``rows`` is the row mode by which parameters are counted. Raises CcaError for kinds that the model lacks.
        """
        available = {kind: sum(anatomy.count(layer.index, kind) for layer in anatomy.layers) for kind in kinds}
        total = sum(available.values())
        if not total:
            raise CcaError(f"circuit: expected components of kind {', '.join(kinds)}, this model has none")
        if self.of == "count":
            fraction = self.amount / total
        elif self.of == "components":
            fraction = self.amount * anatomy.size / total
        else:
            every = anatomy.parameter_count(anatomy.components(kinds), rows)
            fraction = self.amount * anatomy.total_parameters / every
        exact = {kind: min(number, fraction * number) for kind, number in available.items()}
        counts = {kind: int(share + 1e-9) for kind, share in exact.items()}
        if self.of == "count":  # a count is met exactly: what rounding left goes to the nearest
            missing = min(int(self.amount), total) - sum(counts.values())
            for kind in sorted(exact, key=lambda kind: counts[kind] - exact[kind])[:missing]:
                counts[kind] += 1
        if not any(counts.values()):
            counts[max(available, key=lambda kind: available[kind])] = 1
        return counts
