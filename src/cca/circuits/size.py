"""The size of a circuit: ``32`` components, ``1% of components`` or ``0.5% of parameters``.

A share is the same for every kind: 1 % of components is 1 % of the heads and 1 % of the neurons.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cca.errors import CcaError

if TYPE_CHECKING:
    from cca.models.anatomy.anatomy import Anatomy

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
        available = {
            kind: sum(anatomy.count(layer.index, kind) for layer in anatomy.layers) for kind in kinds
        }
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
