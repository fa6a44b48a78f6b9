"""SVG elements as escaped markup, and the scales that place them.

Plots take their page's width: horizontal places are percentages, vertical ones pixels, so that text and marks keep
their size on a phone and no script measures anything. Colours and fonts are classes of the page's style sheet.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from markupsafe import Markup, escape

from cca.reports.formats import label


def element(name: str, *children: str | Markup, **attributes: object) -> Markup:
    """One element; ``_`` in an attribute's name stands for ``-`` (``class_`` for class). None leaves it out."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_number(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    inside = "".join(str(escape(child)) for child in children)
    return Markup(f"<{name}{written}>{inside}</{name}>" if inside else f"<{name}{written}/>")


def figure(title: str, height: float, *children: str | Markup, kind: str = "plot") -> Markup:
    """A whole plot, as wide as its place, ``height`` pixels high; ``title`` says what it shows to who cannot see it."""
    named = element("title", label(title, 400))
    return element("svg", named, *children, role="img", class_=kind, width="100%", height=height)


def joined(parts: Iterable[Markup]) -> Markup:
    return Markup("").join(parts)


@dataclass(frozen=True)
class Scale:
    """Maps [low, high] onto [start, end] (percent or pixels), linearly or by logarithm."""

    low: float
    high: float
    start: float = 0.0
    end: float = 100.0
    log: bool = False

    def at(self, value: float) -> float:
        """Where ``value`` is; what lies beyond an end is drawn at the end."""
        low, high, here = (self._measure(v) for v in (self.low, self.high, value))
        part = (here - low) / (high - low) if high > low else 0.5
        return self.start + min(max(part, 0.0), 1.0) * (self.end - self.start)

    def ticks(self, most: int = 5) -> list[float]:
        """Round values within the scale."""
        if self.log:
            first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
            stride = max(1, math.ceil((last - first + 1) / most))
            return [10.0**power for power in range(first, last + 1, stride)]
        span = self.high - self.low
        if span <= 0:
            return [self.low]
        step = next(s for s in _round_steps(span) if span / s <= most)
        first = math.ceil(self.low / step - 1e-9)
        return [round(n * step, 12) for n in range(first, math.floor(self.high / step + 1e-9) + 1)]

    def _measure(self, value: float) -> float:
        return math.log10(max(value, self.low)) if self.log else value


def _round_steps(span: float) -> Iterable[float]:
    power = 10.0 ** (math.floor(math.log10(span)) - 1)
    while True:
        yield from (power, 2 * power, 5 * power)
        power *= 10


def _number(value: object) -> object:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else value
