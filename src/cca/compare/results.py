"""compare.json: what a comparison found, typed. Every later tool works from it.

Gains are percentage points, drift nats per token, accuracies and shares fractions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from cca.errors import CcaError
from cca.files import check_version, read_json
from cca.reports.parts import (
    Count,
    Flag,
    Fraction,
    Nats,
    NatsInterval,
    Number,
    Part,
    Points,
    PointsInterval,
    Seconds,
    Step,
)

FORMAT, VERSION = "cca.compare", 1


class Point(Part):
    step: Step
    """One step of one run."""
    points: Points
    """Its gain on the validation problems."""
    accuracy: Fraction
    """Its accuracy on them."""
    drift: Nats | None = None
    """Mean over the tokens of all retention sets; null without any, as all drift is."""
    drifts: dict[str, Nats]
    """Of each retention set."""
    in_budget: Flag
    """True when `cca run` might have taken the step."""
    seconds: Seconds
    """Time up to this step: locating and training, without judging."""
    tokens: Count
    """Tokens that went through a pass with gradient up to this step."""


class RunResult(Part):
    """An arm on one model and seed; of a control, one draw."""

    model: str
    seed: Count
    draw: Count | None = None
    base: Fraction
    """The untouched model's validation accuracy."""
    pivots: Count
    coefficient: Number | None = None
    share: Fraction
    """Parameters trained, of all."""
    components: Count | None = None
    circuit: dict[str, Any] | None = None
    best: Point
    """The best step inside the budget."""
    any: Point
    """The best step at any cost."""
    matched: dict[str, Point | None]
    """The first step that reaches each target."""
    asked: dict[str, bool]
    """Whether the target exists: a reference without a gain gives none."""
    steps: Count
    test: dict[str, dict[str, Any]] | None = None
    """`best` and `any` on the test split, where it was asked for."""


class SummaryGain(Part):
    points: Points
    """Mean over models, of each the mean over its seeds and draws."""
    interval: PointsInterval | None = None
    """With several models over them, with one over its templates; null where single answers are not known."""


class WorstSkill(SummaryGain):
    unmoved: Count | None = None
    """Problems of the smallest retention set, where no arm gained or lost one in any."""


class SummaryDrift(Part):
    mean: Nats | None = None
    """Geometric, over models, and over the seeds of each."""
    interval: NatsInterval | None = None
    """Over models; null with one."""


class Summary(Part):
    """A step of every run, summed up."""

    gain: SummaryGain
    over: SummaryGain | None = None
    """Gain over the reference arm's, paired by problem within model and seed."""
    drift: SummaryDrift
    step: Number
    """Median, as are the next two."""
    seconds: Seconds
    tokens: Number


class Ratio(Part):
    """Drift over the reference arm's at the same gain, within model and seed."""

    median: Number
    low: Number
    high: Number


class Matched(Part):
    """The runs of an arm where they reach a target."""

    reached: Count
    of: Count
    gain: SummaryGain | None = None
    drift: SummaryDrift | None = None
    step: Number | None = None
    seconds: Seconds | None = None
    tokens: Number | None = None
    ratio: Ratio | None = None


class TestSummary(Part):
    __test__ = False  # no test of pytest's

    gain: SummaryGain
    over: SummaryGain | None = None
    """As in the validation summary."""
    unseen: SummaryGain | None = None
    """On templates that training lacks."""
    drift: Nats | None = None
    """Geometric mean over runs; null where it was not measured."""
    worst_skill: WorstSkill
    """The largest loss on any retention set."""
    runs: Count


class Tests(Part):
    __test__ = False

    best: TestSummary | None = None
    any: TestSummary | None = None


class Failure(Part):
    model: str
    seed: Count
    draw: Count | None = None
    failed: str
    """Why the arm could not be run."""


class CurvePoint(Part):
    points: Points
    drift: Nats | None = None
    """Median over the runs that reach this gain, as are the seconds."""
    seconds: Seconds
    reached: Count


class ArmResult(Part):
    label: str
    entry: str
    control: str | None = None
    failed: tuple[Failure, ...] = ()
    runs: tuple[RunResult, ...] = ()
    share: Fraction | None = None
    components: Number | None = None
    pivots: Number | None = None
    best: Summary | None = None
    any: Summary | None = None
    matched: dict[str, Matched] = Field(default_factory=dict)
    test: Tests = Tests()
    curve: tuple[CurvePoint, ...] = ()


class Comparison(Part):
    format: str = FORMAT
    version: Count = VERSION
    config: dict[str, Any]
    reference: str
    targets: tuple[str, ...]
    arms: tuple[ArmResult, ...]
    pareto: dict[str, tuple[str, ...]]
    """By cost: the arms that no other arm beats at both gain and this cost."""
    versions: dict[str, str] = Field(default_factory=dict)

    @property
    def scope(self) -> str:
        """What the intervals of gains are over."""
        models = {run.model for arm in self.arms for run in arm.runs}
        if len(models) > 1:
            return f"Intervals of gains and of their differences are over {len(models)} models."
        return "One model: intervals of gains are over its templates and say nothing of other models."

    @staticmethod
    def read(path: Path) -> Comparison:
        """Load compare.json. Raises CcaError for anything else."""
        found = read_json(path)
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise CcaError(f"{path}: expected a {FORMAT} file, got something else")
        check_version(str(path), found.get("version"), VERSION)
        return Comparison.from_json(found, str(path))
