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
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cca.circuits.circuit import Circuit, load_circuit
from cca.circuits.settings import resolve_auto
from cca.evaluation.answers import UNTOUCHED
from cca.evaluation.retention import halves
from cca.evaluation.validation import Validator
from cca.files import Row
from cca.pivots.find import pair_traces
from cca.pivots.pivot import Pivot, load_pivots
from cca.pivots.traces import Pair
from cca.runs.config import Config
from cca.runs.costs import FILE as COSTS
from cca.runs.costs import Costs, read_costs
from cca.runs.folder.row_log import rows_so_far
from cca.runs.folder.stage_files import StageFiles
from cca.runs.folder.stage_inputs import STAGES, STEPS
from cca.runs.open import OpenRun, open_run
from cca.runs.pipeline import training_problems
from cca.runs.progress import RunProgress
from cca.runs.stages.amplify import train
from cca.runs.stages.circuit import run_circuit
from cca.runs.stages.pivots import run_pivots
from cca.runs.stages.traces import load_traces, run_traces, traces_done

NOTHING = {"seconds": 0.0, "tokens": 0}


def make_plan(config: Config, progress: RunProgress) -> dict[str, Row]:
    """Do the first chunk of work; returns per stage its unit, the units done and left, and their costs.

    Raises CcaError for what a run would refuse.
    """
    with open_run(config, progress) as run, TemporaryDirectory(prefix="cca-plan-") as temporary:
        files, problems = run.files("traces"), training_problems(run)
        if not rows_so_far(files / "traces.jsonl")[0]:
            run_traces(
                files, problems, run.grader, run.engine, config.traces, run.max_new_tokens, config.seed, progress,
                most_chunks=1,
            )  # fmt: skip
        traces = load_traces(files / "traces.jsonl")
        pairs, share = pair_traces(problems, traces), len(traces) / len(problems)
        rows = {"traces": _row("problem", len(traces), len(problems), _cost(files))}
        return rows if not pairs else rows | _Later(run, Path(temporary), traces_done(files)).rows(pairs, share)


class _Later:
    """The stages after traces, on the pairs so far: in the run folder where these are all (``complete``)."""

    def __init__(self, run: OpenRun, temporary: Path, complete: bool) -> None:
        self.run, self.temporary, self.complete = run, temporary, complete

    def rows(self, pairs: Sequence[Pair], share: float) -> dict[str, Row]:
        """``share`` is the part of the training problems that ``pairs`` come from."""
        files = self._files("pivots")
        pivots = self._pivots(files, pairs)
        in_all = len(pivots) / share
        rows = {"pivots": _row("pair", len(pairs), len(pairs) / share, _cost(files))}
        files = self._files("circuit")
        circuit, passes, passes_in_all = self._circuit(files, pivots)
        done = passes * len(pivots)
        rows["circuit"] = _row("pass over a pivot", done, passes_in_all * in_all, _cost(files))
        return rows | self._step(circuit, pivots, round(in_all))

    def _files(self, stage: str) -> StageFiles:
        if self.complete:
            return self.run.files(stage)
        run, costs = self.run, Costs(self.temporary, self.run.costs.tokens)
        return StageFiles(STAGES[stage], self.temporary, "plan", costs, run.chunk_done, run.progress.say)

    def _pivots(self, files: StageFiles, pairs: Sequence[Pair]) -> list[Pivot]:
        run, config = self.run, self.run.config
        if not files.done:
            run_pivots(
                files, pairs, run.grader, run.engine, config.pivots, config.traces.chunk, run.max_new_tokens,
                config.seed, run.progress,
            )  # fmt: skip
        return load_pivots(files / "pivots.jsonl")

    def _circuit(self, files: StageFiles, pivots: Sequence[Pivot]) -> tuple[Circuit, int, int]:
        """The circuit, the passes over the pivots that it took, and those that the run takes."""
        run, config = self.run, self.run.config
        settings = resolve_auto(config.circuit, bool(run.task.retention))
        in_all = settings.epochs if "dcm" in settings.localiser.split() else 1
        passes = in_all if self.complete else 1
        if not files.done:
            run_circuit(
                files, run.model, run.anatomy, pivots, settings.model_copy(update={"epochs": passes}),
                texts=run.retention_texts, rows=config.amplify.rows, seed=config.seed, progress=run.progress,
            )  # fmt: skip
        return load_circuit(files / "circuit.jsonl"), passes, in_all

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
            validator = Validator(
                run.model, run.grader, run.answering, run.task.validation, run.task.retention,
                config.amplify.budget, run.max_new_tokens, run.note,
            )  # fmt: skip
            base = clock.lap()
            train(
                files, run.model, run.anatomy, circuit, pivots, config.amplify, validator,
                texts=run.retention_texts, seed=config.seed, what="amplify", kept_in=STEPS, progress=run.progress,
                track=clock.step_done,
            )  # fmt: skip
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
