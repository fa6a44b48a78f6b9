"""report.json: everything that a run found, in one file that every later tool works from.

The texts under the fields document the file; docs/write_reference.py writes them into docs/reference/report.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from cca.errors import CcaError
from cca.files import Row, fingerprint, read_json
from cca.reports.parts import (
    NO_NULLS,
    Accuracy,
    CircuitSummary,
    Count,
    Drift,
    Flag,
    Fraction,
    Gain,
    ModelSize,
    Nats,
    Number,
    Part,
    PivotSummary,
    Seconds,
    Share,
    Skill,
    Step,
    TemplateAccuracy,
    TestPart,
)

FORMAT, VERSION = "cca.report", 2


class MatchedStep(Part):
    step: Step | None = None
    """That step."""
    drift: Nats | None = None
    """Its drift on the validation halves."""


class Draw(Part):
    patched: Accuracy = Accuracy()
    """At the draw's best validated step."""
    gain: Gain = Gain()
    """At that step."""
    unseen_templates: TestPart | None = None
    """At that step."""
    drift: Drift = Drift()
    """At that step."""
    retention: Annotated[dict[str, Skill], NO_NULLS] = Field(default_factory=dict)
    """At that step."""
    best_step: Step | None = None
    """That step."""
    steps: Step | None = None
    """Steps taken."""
    matched: MatchedStep | None = None
    """The first step as accurate as the patch on the validation data; null when there is none."""
    circuit: str | None = None
    """Fingerprint of the circuit."""


class MatchedDraws(Part):
    reached: Count | None = None
    """Draws that became as accurate as the patch."""
    drift: Nats | None = None
    """Median of their `matched.drift`; null when none did."""
    patch: Nats | None = None
    """Drift of the patch on the same validation halves, to compare with."""


class Control(Part):
    draws: tuple[Draw, ...] = ()
    """Random circuits of the same size and mix of kinds, amplified on the same pivots without a budget."""
    patched: Accuracy = Accuracy()
    """Of a control without draws."""
    gain: Gain = Gain()
    """Median over the draws."""
    drift: Drift = Drift()
    """Median over the draws."""
    matched: MatchedDraws | None = None
    """The draws where they are as accurate as the patch."""


class StepValidation(Part):
    accuracy: Fraction | None = None
    """On the validation problems."""
    drift: Nats | None = None
    """On the guarding halves of the retention sets, on problems that nothing was fitted to; null: not measured."""
    retention: Annotated[dict[str, Fraction], NO_NULLS] = Field(default_factory=dict)
    """Accuracy on each guarding half."""
    in_budget: Flag | None = None
    """True when the step may become the patch; null: there is nothing that guards a budget."""
    cut_off: Fraction | None = None
    """Validation answers that were cut off at the longest completion."""


class AmplifyStep(Part):
    step: Step = 0
    """Steps taken so far."""
    objective: Number | None = None
    """Mean over the pivots at the weights that the step started from, in nats; null at step 0."""
    logit_gap: Number | None = None
    """Likewise, in nats."""
    validation: StepValidation = StepValidation()
    """What the validation data says of the step."""


class AmplifySummary(Part):
    best_step: Step | None = None
    """The step that the patch holds; 0 is the untouched model."""
    coefficient: Number | None = None
    """Factor of the gradient in a step; with Adam its learning rate."""
    history: tuple[AmplifyStep, ...] = ()
    """Validated steps, step 0 first."""


class StageCost(Part):
    seconds: Seconds | None = None
    """Wall-clock time of the stage, all sittings together."""
    tokens: Count | None = None
    """Tokens generated in it."""


class Report(Part):
    """Accuracies are fractions in [0, 1], gains percentage points, drift nats per token."""

    format: str = FORMAT
    """Always `cca.report`."""
    version: Count = VERSION
    """Rises when a key changes its meaning."""
    base: Accuracy = Accuracy()
    """The untouched model on the test problems."""
    patched: Accuracy = Accuracy()
    """The patched model on the same problems."""
    gain: Gain = Gain()
    """Patched minus base on the test problems."""
    seen_templates: TestPart | None = None
    """The test problems whose template is in the training data; null when there are none."""
    unseen_templates: TestPart | None = None
    """The test problems whose template is not; null when there are none."""
    templates: tuple[TemplateAccuracy, ...] = ()
    """The templates of the test problems, by name."""
    drift: Drift = Drift()
    """How far the patch moves the model on other text."""
    retention: Annotated[dict[str, Skill], NO_NULLS] = Field(default_factory=dict)
    """Other skills, by name."""
    share: Share = Share()
    """How much of the model the circuit is."""
    circuit: CircuitSummary = CircuitSummary()
    """The circuit."""
    anatomy: ModelSize = ModelSize()
    """The model that the circuit is part of."""
    pivots: PivotSummary = PivotSummary()
    """The pivots."""
    controls: Annotated[dict[str, Control], NO_NULLS] = Field(default_factory=dict)
    """What the same data does without the circuit, by control; empty when none was asked for."""
    amplify: AmplifySummary = AmplifySummary()
    """The steps."""
    timing: Annotated[dict[str, StageCost], NO_NULLS] = Field(default_factory=dict)
    """What each stage cost."""
    config: dict[str, Any] = Field(default_factory=dict)
    """Every key of the run's configuration except `out`; `cca config` says what they mean."""
    versions: Annotated[dict[str, str], NO_NULLS] = Field(default_factory=dict)
    """Python and the packages that matter."""
    hardware: Annotated[dict[str, Any], NO_NULLS] = Field(default_factory=dict)
    """Machine, processors, threads, GPUs."""
    fingerprint: str | None = None
    """Hash of what was run and what came out (not of times, versions or hardware): equal means equal results."""
    made_from: Annotated[dict[str, str], NO_NULLS] = Field(default_factory=dict)
    """Hashes of the base model's weights, the tokenizer and the problems."""
    notes: tuple[str, ...] = ()
    """What the reader must know to read the results right."""
    forked_from: Any = None
    """The run that this one took its first stages from."""

    @property
    def drift_budget(self) -> float | None:
        """Nats per token that a step was allowed to drift; None where the configuration does not say."""
        found: Any = self.config
        for key in ("amplify", "budget", "drift"):
            found = found.get(key) if isinstance(found, Mapping) else None
        return float(found) if isinstance(found, int | float) and not isinstance(found, bool) else None

    @staticmethod
    def read(path: Path) -> Report:
        """Load report.json. Raises CcaError for a file that is none."""
        return Report.from_json(read_object(path))


def read_object(path: Path) -> Row:
    """The object in a JSON file; empty where there is no file. Raises CcaError for another value."""
    found = read_json(path) if path.exists() else {}
    if not isinstance(found, dict):
        raise CcaError(f"{path}: expected a JSON object, got {type(found).__name__}; is the file damaged?")
    return found


def make_report(
    manifest: Mapping[str, Any], evaluation: Mapping[str, Any], amplify: Mapping[str, Any], timing: Mapping[str, Any]
) -> Row:
    """The report as JSON. Its ``fingerprint`` is over what was run and what came out, not over times."""
    measured = {key: value for key, value in evaluation.items() if key not in ("format", "version", "made_from")}
    inputs = {"config": manifest["config"], **manifest["fingerprints"]}
    return {
        "format": FORMAT,
        # figures that an older version measured keep its meaning
        "version": VERSION if "mcnemar_p" in evaluation["gain"] else 1,
        **measured,
        "amplify": {key: amplify[key] for key in ("best_step", "coefficient", "history")},
        "timing": dict(timing),
        "config": manifest["config"],
        "versions": manifest["versions"],
        "hardware": manifest["hardware"],
        "fingerprint": fingerprint({**inputs, "measured": measured}),
        "made_from": manifest["fingerprints"],
    }
