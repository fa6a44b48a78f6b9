"""`cca plan`: costs of a run, from the first chunk of its work.

1. The first chunk of traces is made in the run folder and kept: the run resumes from it. Where one chunk holds all
   training problems, pivots, circuit and the first step are kept as well.
2. Otherwise these depend on traces that are not there yet: they are made from the first chunk, in a temporary folder.
   The base's validation answers do not depend on traces and are always kept.
3. Seconds and tokens per unit, times the units left, are the costs to come. How many steps amplify takes is not known
   beforehand; only the cost of one step is.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cca.circuits.circuit import Circuit
from cca.evaluation.answers import UNTOUCHED
from cca.evaluation.retention import halves
from cca.files import Row
from cca.pivots.find import pair_traces
from cca.pivots.pivot import Pivot
from cca.pivots.traces import Trace, opposite
from cca.runs.config import Config
from cca.runs.costs import FILE as COSTS
from cca.runs.costs import Costs, read_costs
from cca.runs.folder.stage_files import STAGES, STEPS, StageFiles
from cca.runs.open import OpenRun, open_run
from cca.runs.pipeline import begin_traces, make_circuit, make_pivots, make_training, training_problems
from cca.runs.progress import RunProgress
from cca.runs.stages.traces_and_pivots import TRACES, load_traces

NOTHING = {"seconds": 0.0, "tokens": 0}


def make_plan(config: Config, progress: RunProgress) -> dict[str, Row]:
    """Do the first chunk of work; returns per stage its unit, the units done and left, and their costs.

    Raises CcaError for what a run would refuse.
    """
    with open_run(config, progress) as run, TemporaryDirectory(prefix="cca-plan-") as temporary:
        files, problems = run.files("traces"), training_problems(run)
        traces = load_traces(files / TRACES) or begin_traces(run, files, one_chunk=True)
        rows = {"traces": _row("problem", len(traces), len(problems), _cost(files))}
        if not pair_traces(problems, traces):
            return rows
        later = _Later(run, Path(temporary), complete=len(traces) == len(problems))
        return rows | later.rows(traces, len(traces) / len(problems))


class _Later:
    """The stages after traces, on the traces so far: in the run folder where these are all (``complete``)."""

    def __init__(self, run: OpenRun, temporary: Path, complete: bool) -> None:
        self.run, self.temporary, self.complete = run, temporary, complete

    def rows(self, traces: Sequence[Sequence[Trace]], share: float) -> dict[str, Row]:
        """``share`` is the part of the training problems that ``traces`` are of."""
        files, settings = self._files("pivots"), self.run.circuit_settings
        pairs = sum(opposite(own) is not None for own in traces)
        pivots = make_pivots(self.run, traces, files)
        in_all = len(pivots) / share
        rows = {"pivots": _row("pair", pairs, pairs / share, _cost(files))}
        passes_in_all = settings.epochs if "dcm" in settings.localiser.split() else 1
        passes = passes_in_all if self.complete else 1
        files = self._files("circuit")
        circuit = make_circuit(self.run, pivots, files, settings.model_copy(update={"epochs": passes}))
        done = passes * len(pivots)
        rows["circuit"] = _row("pass over a pivot", done, passes_in_all * in_all, _cost(files))
        return rows | self._step(circuit, pivots, round(in_all))

    def _files(self, stage: str) -> StageFiles:
        if self.complete:
            return self.run.files(stage)
        costs = Costs(self.temporary, self.run.costs.tokens)
        return StageFiles(
            STAGES[stage], self.temporary, "plan", costs, self.run.progress, self.run.track, self.run.chunk_done,
            self.run.progress.say,
        )  # fmt: skip

    def _step(self, circuit: Circuit, pivots: Sequence[Pivot], in_all: int) -> dict[str, Row]:
        """Judge the base, then take and judge one step. A step is over all pivots of the run, ``in_all``."""
        run, config, files = self.run, self.run.config, self._files("amplify")
        steps = {"unit": "step", "left": None, "at_most": config.amplify.steps}
        if not len(circuit) or files.done or (files / STEPS).exists():
            return {"amplify": {**steps, **_cost(files)}}
        clock, base = _Clock(run.costs), dict(NOTHING)
        with files.timed(), suppress(_OneStepTaken):
            clock.lap()
            run.answering.answers(run.task.validation, run.max_new_tokens, UNTOUCHED)
            watched = replace(files, track=clock.step_done)
            training = make_training(run, watched, pivots, config.amplify.budget)
            base = clock.lap()
            training.on(circuit, "amplify", STEPS)
        peaks = {key: value for key, value in _cost(files).items() if key.startswith("peak")}
        sizes = [[len(half) for half in halves(problems)] for problems in run.task.retention.values()]
        judged = len(run.task.validation) + sum(guard for guard, _ in sizes)
        tests = len(run.task.test) + sum(reported for _, reported in sizes)
        each = {"seconds_each": clock.step["seconds"], "tokens_each": clock.step["tokens"]}
        evaluate = _row("answer to a test problem", judged, judged + 2 * tests, {**base, **peaks})
        return {
            "amplify": {**steps, "done": 1, "pivots": len(pivots), "pivots_in_all": in_all, **each, **peaks},
            "evaluate": {**evaluate, "done": 0},
        }


class _OneStepTaken(Exception):
    """Amplify took, judged and saved its first step."""


class _Clock:
    """Seconds and generated tokens between two laps; ``step`` are those of the first step with its validation."""

    def __init__(self, costs: Costs) -> None:
        self.tokens, self.step = costs.tokens, dict(NOTHING)
        self._last = (time.perf_counter(), costs.tokens())

    def lap(self) -> Row:
        now, before = (time.perf_counter(), self.tokens()), self._last
        self._last = now
        return {"seconds": now[0] - before[0], "tokens": now[1] - before[1]}

    def step_done(self, values: Mapping[str, Any], step: int | None = None) -> None:
        del values
        self.step = self.lap()
        if step:
            raise _OneStepTaken


def _cost(files: StageFiles) -> Row:
    return dict(read_costs(files / COSTS).get(files.stage.name, NOTHING))


def _row(unit: str, done: int, in_all: float, cost: Row) -> Row:
    """Costs per unit and of the units left, from the ``cost`` of those done."""
    left, done = max(0.0, in_all - done), max(1, done)
    return {
        "unit": unit,
        "done": done,
        "left": round(left),
        "seconds_each": cost["seconds"] / done,
        "tokens_each": cost["tokens"] / done,
        "seconds_left": left * cost["seconds"] / done,
        **{key: value for key, value in cost.items() if key.startswith("peak")},
    }
