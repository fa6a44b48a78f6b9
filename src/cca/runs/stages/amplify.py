"""The amplify stage: the circuit's rows trained and validated, and the patch of the best step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel

from cca.amplify.amplify import Amplified, StepRecord, amplify
from cca.amplify.settings import AmplifyConfig
from cca.circuits.circuit import Circuit
from cca.evaluation.validation import Validator
from cca.files import Row, write_sealed
from cca.gradients.sampled_likelihood import Text
from cca.models.anatomy.anatomy import Anatomy
from cca.patches.algebra import nearest_reachable
from cca.patches.patch import Patch
from cca.patches.patch_file import save_patch
from cca.pivots.pivot import Pivot
from cca.runs.folder.stage_files import PATCH, STEPS, StageFiles

AMPLIFY = "cca.amplify"
SUMMARY = "amplify.json"


@dataclass(frozen=True)
class Training:
    """Amplifies circuits of one model on the same pivots, with the same settings and judge; made while it is untouched.

    ``texts`` are those of other skills that steps may be fitted to.
    """

    files: StageFiles
    model: PreTrainedModel
    anatomy: Anatomy
    pivots: Sequence[Pivot]
    settings: AmplifyConfig
    validator: Validator
    texts: Sequence[Text]
    seed: int

    def on(self, circuit: Circuit, what: str, kept_in: str) -> Amplified:
        """Train a circuit, validated step by step. ``kept_in`` names the file of its state, for a resumed run."""
        files, validator = self.files, self.validator
        validator.prepare(self.anatomy.rows(circuit.components, self.settings.rows))
        state = files.training_state(kept_in, what, circuit.fingerprint)
        with files.progress.work(f"{what}: steps on {len(circuit)} components", self.settings.steps) as report:

            def step_done(record: StepRecord) -> None:
                report(1 if record.step else 0)
                cut_off = record.validation.cut_off
                if record.step == 0 and cut_off is not None:
                    of = f"of the base's validation answers were cut off at {validator.max_new_tokens} tokens"
                    files.progress.say(f"{what}: {cut_off:.1%} {of}")
                files.track({what: record.to_row()}, record.step)
                files.chunk_done()

            amplified = amplify(
                self.model, self.anatomy, circuit, self.pivots, self.settings, validator, texts=self.texts,
                seed=self.seed, on_step=step_done, state=state, note=files.note, what=what,
            )  # fmt: skip
        if " at step " in amplified.stopped:  # neither all steps taken nor out of patience
            files.note(f"{what}: {amplified.stopped}; the best step before it is kept")
        return amplified


def run_amplify(training: Training, circuit: Circuit, base: tuple[str, str | None], made_by: Row) -> None:
    """Write ``amplify.json`` and ``patch.safetensors``, which is never written again.

    ``base`` is the name and revision of the model; ``made_by`` goes into the patch, with the best step.
    """
    files, amplified = training.files, training.on(circuit, "amplify", STEPS)
    summary = {
        "made_from": files.made_from,
        "best_step": amplified.best_step,
        "coefficient": amplified.coefficient,
        "stopped": amplified.stopped,
        "history": [_finite(record.to_row()) for record in amplified.history],
    }
    write_sealed(files / SUMMARY, AMPLIFY, 1, summary)
    save_patch(files / PATCH, make_patch(training.model, circuit, amplified, base, made_by))


def make_patch(
    model: PreTrainedModel, circuit: Circuit, amplified: Amplified, base: tuple[str, str | None], made_by: Row
) -> Patch:
    trained = amplified.trained
    edits = [
        (name, axis, trained.rows[name, axis].indices, trained.before[name, axis], reachable)
        for (name, axis), after in amplified.rows.items()
        for reachable in [nearest_reachable(trained.before[name, axis], after)]  # adapters add; see addition.py
    ]
    return Patch.from_edits(
        model,
        edits,
        base_model=base[0],
        base_revision=base[1],
        circuit=[str(component) for component in circuit.components],
        made_by={**made_by, "best_step": amplified.best_step},
    )


def _finite(value: Any) -> Any:
    """``value`` with null for infinities and not-a-number, which JSON lacks."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
