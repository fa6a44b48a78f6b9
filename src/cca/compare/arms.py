"""One arm on one model and seed: trained, judged step by step, and written down as a row.

Circuits go through the same `amplify` as in a run. Every arm is judged by a `StepTracker`, and its cost is counted
alike: seconds of locating and of training without the judging, and tokens that went through a pass with gradient.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass

from cca.amplify.amplify import StepRecord, amplify, make_gradient
from cca.baselines import BaselineSettings, baseline_settings
from cca.baselines.training import (
    AsItIs,
    Edit,
    TrainingText,
    batches,
    completion_loss,
    gold_texts,
    lora,
    own_right_texts,
    scaled_rows,
    tune,
    unfrozen,
)  # fmt: skip
from cca.circuits.circuit import Circuit, shares
from cca.compare.config import Arm
from cca.compare.shared_work import Located, SharedWork
from cca.compare.step_scores import StepTracker
from cca.errors import CcaError
from cca.evaluation.accuracy import Results, per_template
from cca.evaluation.validation import AgainstBase
from cca.files import Row
from cca.models.anatomy.components import KINDS
from cca.models.anatomy.weight_rows import WeightRows
from cca.pivots.pivot import Pivot
from cca.runs.config import Config


@dataclass(frozen=True)
class Control:
    """``draw`` counts from 1."""

    kind: str
    draw: int


class ArmRun:
    """Runs one arm on one model and seed; `row` holds everything known of it afterwards."""

    def __init__(self, shared: SharedWork, arm: Arm, run: Config, control: Control | None) -> None:
        self.shared, self.arm, self.run, self.control = shared, arm, run, control
        self.session = shared.session
        self.steps: list[Row] = []
        self.step_tokens = 0
        """Tokens that go through a pass with gradient at each step."""
        self.began = time.perf_counter()
        self.steps_before = self.tokens_before = 0

    def row(self) -> Row:
        """Train and judge. An arm that cannot be run says why in ``failed``."""
        try:
            self.shared.prepare()
            return {"failed": None, **self._measured()}
        except CcaError as error:
            return {"failed": str(error)}

    def _measured(self) -> Row:
        pivots = self.shared.pivots(self.run, self.arm)
        settings = baseline_settings({"patience": self.run.amplify.patience, **self.arm.options})
        if self.arm.baseline is not None and self.arm.baseline != "scaling":
            return self._tuned(self.arm.baseline, settings, pivots)
        located = self.shared.circuit(self.run, pivots)
        if self.control is not None:
            located = Located(self.shared.control(self.control.kind, self.control.draw, located.circuit), 0.0)
        if self.arm.baseline == "scaling":
            return self._scaled(located, settings, pivots)
        return self._amplified(located, pivots)

    def _amplified(self, located: Located, pivots: list[Pivot]) -> Row:
        """Rounds of training; what is said of the circuit is of all rounds together."""
        session, circuit = self.session, located.circuit
        touched: list[WeightRows] = []
        judge = self._judge(lambda: Edit.of_rows(session.model, touched))
        coefficients: list[float | None] = []
        used = len(pivots)
        with ExitStack() as earlier:
            for number in range(1, self.arm.rounds + 1):
                own = circuit
                if number > 1:
                    if judge.best is None or judge.best.edit is None:
                        break  # nothing to go on from
                    earlier.enter_context(judge.best.edit.applied())
                    if self.arm.retrace:
                        pivots = self.shared.fresh_pivots(self.run, self.arm, number)
                    if not pivots:
                        break  # nothing left to set right
                    used = max(used, len(pivots))
                    own = self.shared.new_site(self.run, pivots).locate(self.shared.settings(self.run))
                    circuit = Circuit.of({*circuit.components, *own.components}, circuit.method)
                touched += session.anatomy.rows(own.components, self.run.amplify.rows)
                coefficients.append(self._trained(own, pivots, judge))
        edit = Edit.of_rows(session.model, session.anatomy.rows(circuit.components, self.run.amplify.rows))
        found = self._finish(judge, used, edit, located.seconds, circuit)
        return found | {"coefficient": coefficients[0], "rounds": len(coefficients)}

    def _trained(self, circuit: Circuit, pivots: list[Pivot], judge: StepTracker) -> float | None:
        """One round; returns the coefficient of its steps."""
        session, settings = self.session, self.run.amplify
        self._starts(sum(len(pivot.tokens) for pivot in pivots))
        done = amplify(
            session.model, session.anatomy, circuit, pivots, settings, judge, texts=self.shared.texts,
            seed=self.run.seed, on_step=lambda record: self._step(record, judge),
        )  # fmt: skip
        return done.coefficient

    def _tuned(self, name: str, settings: BaselineSettings, pivots: list[Pivot]) -> Row:
        session = self.session
        how, _, data = name.partition("-")
        seed = session.config.seed
        adapted = lora(session.model, settings.rank, settings.alpha, seed) if how == "lora" else unfrozen(session.model)
        texts = self._texts(data)
        with adapted as tensors:
            judge = self._judge(lambda: Edit.of_tensors(tensors))
            add_gradient = self._text_gradient(texts, settings) if texts else self._pivot_gradient(pivots)
            self._starts(self.step_tokens)
            tune(tensors, add_gradient, settings, judge, lambda record: self._step(record, judge))
            return self._finish(judge, len(pivots), Edit.of_tensors(tensors)) | {"texts": len(texts)}

    def _scaled(self, located: Located, settings: BaselineSettings, pivots: list[Pivot]) -> Row:
        edit = Edit.of_rows(self.session.model, scaled_rows(self.session.anatomy, located.circuit))
        judge = self._judge(edit.now)
        self._starts(0)
        for step, factor in enumerate((1.0, *settings.factors)):
            with edit.applied(factor):
                self._step(StepRecord(step, None, None, judge()), judge)
        return self._finish(judge, len(pivots), edit, located.seconds, located.circuit)

    def _judge(self, keep: Callable[[], Edit]) -> StepTracker:
        return StepTracker(self.shared.step_scores, self.run.amplify.budget, keep)

    def _starts(self, step_tokens: int) -> None:
        """Steps of a later round are counted on from those of the round before."""
        self.step_tokens = step_tokens
        if self.steps:
            self.steps_before, self.tokens_before = self.steps[-1]["step"], self.steps[-1]["tokens"]
        else:
            self.began = time.perf_counter()

    def _step(self, record: StepRecord, judge: StepTracker) -> None:
        if self.steps and record.step == 0:
            return  # where a later round starts from is a step that is known
        seconds = time.perf_counter() - self.began - judge.seconds
        known = {"step": self.steps_before + record.step, "objective": record.objective, "logit_gap": record.logit_gap}
        account = {"seconds": round(seconds, 3), "tokens": self.tokens_before + record.step * self.step_tokens}
        self.steps.append({**known, **judge.steps[-1], **account})

    def _finish(
        self, judge: StepTracker, pivots: int, edit: Edit, locating: float = 0.0, circuit: Circuit | None = None
    ) -> Row:
        """The row, where ``edit`` is of all that was trained; the model must still be built as the steps expect it."""
        kept = {name: step for name, step in (("best", judge.best), ("any", judge.any)) if step is not None}
        assert len(kept) == 2, "an arm is judged at least at step 0"
        base = self.shared.step_scores.base
        tests: dict[int, Row] = {}
        for step in {id(step.edit): step for step in kept.values()}.values() if self.shared.config.test else ():
            with step.edit.applied() if step.edit else nullcontext():
                tests[id(step.edit)] = _test_scores(self.shared.test_scores)
        return {
            "base": base.accuracy,
            "pivots": pivots,
            "history": self.steps,
            "templates": {name: _by_template(base, step.results) for name, step in kept.items()},
            "total_parameters": self.session.anatomy.total_parameters,
            "test": {name: tests[id(step.edit)] for name, step in kept.items()} if tests else None,
            "circuit": circuit and self._circuit(circuit),
            "parameters": edit.parameters,
            "seconds": {"locate": locating, "train": self.steps[-1]["seconds"]},
        }

    def _circuit(self, circuit: Circuit) -> Row:
        return {
            "method": circuit.method,
            "components": len(circuit),
            "fingerprint": circuit.fingerprint,
            "kinds": {kind: circuit.count(kind) for kind in KINDS},
            "shares": shares(circuit, self.session.anatomy, self.run.amplify.rows),
        }

    def _texts(self, data: str) -> list[TrainingText]:
        session = self.session
        if data == "gold":
            return gold_texts(session.task.train, session.grader, session.model)
        if data == "own":
            return own_right_texts(session.task.train, self.shared.traces, session.grader)
        return []

    def _text_gradient(
        self, texts: list[TrainingText], settings: BaselineSettings
    ) -> Callable[[], tuple[float, float | None]]:
        drawn = batches(texts, settings.texts, self.session.config.seed)
        mean_length = sum(len(text.prompt) + len(text.completion) for text in texts) / len(texts)
        self.step_tokens = round(mean_length * min(settings.texts, len(texts)))

        def add_gradient() -> tuple[float, float | None]:
            loss = completion_loss(self.session.model, next(drawn))
            loss.backward()
            return float(loss.detach()), None

        return add_gradient

    def _pivot_gradient(self, pivots: list[Pivot]) -> Callable[[], tuple[float, float | None]]:
        self.step_tokens = sum(len(pivot.tokens) for pivot in pivots)
        session, settings = self.session, self.run.amplify
        add_gradient = make_gradient(
            session.model, session.anatomy, pivots, settings, self.shared.texts, settings.batch_size
        )
        return lambda: add_gradient(AsItIs(session.model))


def _by_template(base: Results, patched: Results) -> list[Row]:
    """`per_template`, and of every problem whether it was right (1) before and after, for paired differences."""
    records = per_template(base, patched)
    for record in records:
        for key, side in (("before", base), ("after", patched)):
            right = side.of_templates({record["template"]}).right
            record[key] = "".join(str(int(each)) for each in right)
    return records


def _test_scores(tested: AgainstBase) -> Row:
    """The model as it stands, compared with the base in the shorter form of an arm's row."""
    patched = tested.results()
    measured = tested.compared(patched)
    unseen, skills = measured["unseen_templates"], measured["retention"]
    return {
        "base": measured["base"]["accuracy"],
        "accuracy": measured["patched"]["accuracy"],
        "gain": measured["gain"],
        "unseen": unseen and unseen["gain"],
        "templates": _by_template(tested.base, patched),
        "drift": measured["drift"]["kl"],
        "drifts": {name: skill["drift"] for name, skill in skills.items()},
        "retention": {
            name: {key: skill[key] for key in ("base", "patched", "interval", "problems", "gained", "lost")}
            for name, skill in skills.items()
        },
    }
