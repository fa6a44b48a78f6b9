"""A rehearsal: every stage on a few problems, metered, so that `cca.runs.plan` can foretell the whole.

Costs do not depend on what the texts say. Where the sample has too few pivots to meter the later stages on, places in
its greedy traces stand in for them.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from cca.amplify.amplify import Validation
from cca.circuits.circuit import Circuit
from cca.engines.drafts import Draft, complete_drafts, make_drafts
from cca.engines.engine import Completion, Request
from cca.evaluation.answers import retention_tokens
from cca.evaluation.validation import Validator, make_probe
from cca.gradients.trainable_rows import TrainableRows
from cca.models.memory import held_memory, peak_memory, reset_peak_memory
from cca.pivots.pivot import Pivot
from cca.pivots.traces import Trace, TraceSettings, opposite, paired_traces
from cca.problems.problem import Problem
from cca.problems.task import spread
from cca.runs.config.config import Config
from cca.runs.decoding_cost import MeteredEngine, Speed
from cca.runs.findings import Rehearsal
from cca.runs.folder.run_folder import RunDirectory
from cca.runs.progress.narrator import Narrator, Silent
from cca.runs.session import Session
from cca.runs.stages.amplify import run_amplify
from cca.runs.stages.circuit import locate
from cca.runs.stages.pivots import pivots_of
from cca.runs.stages.retention_texts import spared_texts

T = TypeVar("T")
FIRST, MOST = 4, 128
"""Problems to begin with, and at most."""
PROBED = 16
"""Problems of each retention set: fewer, of all sets in one batch, are padded more than those of a run."""
DRAFTED = 64
"""Problems of the task whose answers an edit may write anew."""
METERED_STEPS = 2
EPOCHS = 2
LARGE = 0.05
"""Share of the components that a mask rarely keeps more than."""


class _RehearsalSession(Session):
    """A session that keeps nothing: there is no run folder yet."""

    @cached_property
    def engine(self) -> MeteredEngine:  # type: ignore[override]
        return MeteredEngine(self.model, self.config.traces.batch_size, self.note)

    def chunk_done(self) -> None:
        pass

    def note(self, text: str) -> None:
        self.narrator.say(text)


class _NoValidation(Validator):
    """Steps are metered without what judges them. The untouched model is judged once, as the first step begins."""

    def __init__(self) -> None:
        self.called = 0.0

    def prepare(self, rows: object = None) -> None:
        pass

    def __call__(self) -> Validation:
        self.called = time.perf_counter()
        return Validation(0.0, 0.0, {}, True)


@contextmanager
def rehearsed(config: Config, narrator: Narrator, seconds: float) -> Iterator[Rehearsal]:
    """Rehearse for about ``seconds`` beyond loading the model. Raises CcaError for what a run would refuse."""
    with tempfile.TemporaryDirectory() as nowhere:
        session = _RehearsalSession(config, RunDirectory(Path(nowhere)), narrator)
        session.say_device()
        _ = session.task, session.anatomy
        with narrator.work("rehearsing each stage on a few problems", None):
            session.narrator = Silent()
            yield _Rehearsing(session, seconds).all()


class _Rehearsing:
    def __init__(self, session: Session, seconds: float) -> None:
        self.session, self.seconds = session, seconds
        self.engine: MeteredEngine = session.engine  # type: ignore[assignment]
        self.found = Rehearsal(session)
        self.drafts: dict[str, list[tuple[list[Draft], int]]] = {"task": [], "others": []}
        """Answers of the base, and how long they may be."""

    def all(self) -> Rehearsal:
        traces = self._traces()
        pivots = self._pivots(traces)
        self._retention()
        self._later_stages(pivots)
        self.found.speed = Speed.fitted(self.engine.calls, self.engine.readings)
        return self.found

    def _traces(self) -> list[tuple[Problem, list[Trace]]]:
        problems = self.session.task.train
        prompts = [self.session.grader.prompt_ids(problem) for problem in problems[:FIRST]]
        self.engine.complete(
            [Request(prompt) for prompt in prompts], 2
        )  # the first call pays for what is loaded late
        self.engine.calls.clear()
        self.found.base_bytes = {
            "cpu": held_memory(),
            **{k: v for k, v in peak_memory().items() if k != "cpu"},
        }
        few, more = (self._pace(spread(problems, count)) for count in (FIRST, 4 * FIRST))
        a_problem = max(more / MOST, (more - few) / (3 * FIRST))
        room = (self.seconds / 2 - few - more) / a_problem
        count = int(max(4 * FIRST, min(MOST, len(problems), room)))
        before = len(self.engine.calls)
        began = time.perf_counter()
        made = self._metered("generation", lambda: self._trace(spread(problems, count)))
        took = time.perf_counter() - began
        self.found.traced = self.engine.calls[before:]
        self.found.beside = max(0.0, took - sum(call.seconds for call in self.found.traced)) / max(
            1, len(made)
        )
        self.found.problems = len(made)
        self.found.right = sum(own[0].right for _, own in made) / len(made)
        self.found.pairs = sum(opposite(own) is not None for _, own in made)
        greedy = [(problem, own[0]) for problem, own in spread(made, DRAFTED)]
        self._draft(
            "task", [problem for problem, _ in greedy], self.session.max_new_tokens,
            [Completion(trace.token_ids, trace.finished) for _, trace in greedy],
        )  # fmt: skip
        return made

    def _draft(
        self, kind: str, problems: Sequence[Problem], limit: int, completions: Sequence[Completion]
    ) -> None:
        prefixes = [self.session.grader.prompt_ids(problem) for problem in problems]
        self.drafts[kind].append((make_drafts(self.engine, prefixes, completions), limit))

    def _pace(self, problems: Sequence[Problem]) -> float:
        """Seconds of tracing."""
        began = time.perf_counter()
        self._trace(problems)
        return time.perf_counter() - began

    def _trace(self, problems: Sequence[Problem]) -> list[tuple[Problem, list[Trace]]]:
        given = self.session.config.traces
        settings = TraceSettings(
            samples=given.samples,
            temperature_when_right=given.temperature_when_right,
            temperature_when_wrong=given.temperature_when_wrong,
            max_new_tokens=self.session.max_new_tokens,
            seed=self.session.config.seed,
        )
        traces = paired_traces(problems, self.session.grader, self.engine, settings)
        return list(zip(problems, traces, strict=True))

    def _pivots(self, traces: Sequence[tuple[Problem, list[Trace]]]) -> list[Pivot]:
        pairs = [
            (problem, own[0], sample) for problem, own in traces if (sample := opposite(own)) is not None
        ]
        before, began = len(self.engine.calls), time.perf_counter()
        found = [pivot for own in pivots_of(self.session, pairs) for pivot in own]
        took = time.perf_counter() - began
        self.found.walked = self.engine.calls[before:]
        self.found.reading = max(0.0, took - sum(call.seconds for call in self.found.walked)) / max(
            1, len(pairs)
        )
        self.found.found = len(found)
        wanted = 2 * self.session.config.amplify.batch_size
        stand_ins = (pivot for problem, own in traces for pivot in _stand_ins(problem, own[0], self.session))
        while len(found) < wanted and (pivot := next(stand_ins, None)) is not None:
            found.append(pivot)
        return found[:wanted]

    def _retention(self) -> None:
        for name, problems in self.session.task.retention.items():
            sample = spread(problems, 2 * FIRST)
            limit = retention_tokens(problems, self.session.grader.codec)
            requests = [Request(self.session.grader.prompt_ids(problem)) for problem in sample]
            completions = self.engine.complete(requests, limit, self.session.grader.finished)
            self.found.retention[name] = self.engine.calls[-1]
            self._draft("others", sample, limit, completions)

    def _later_stages(self, pivots: list[Pivot]) -> None:
        session = self.session
        self.found.pivots = len(pivots)
        few = pivots[: self.found.few]
        self.found.pivot_tokens = sum(len(pivot.tokens) for pivot in pivots) / len(pivots)
        config = session.config
        session.config = _shortened(config)
        try:
            few_time, _ = self._timed("circuit", lambda: locate(session, few))
            full_time, circuit = self._timed("circuit", lambda: locate(session, pivots))
            self.found.locating = few_time, full_time
            if len(circuit) > LARGE * session.anatomy.size and config.circuit.localiser == "dcm":
                circuit = self._small_circuit()  # a mask of few epochs has not let go of anything yet

            full, edit = self._stepping(circuit, pivots)
            self.found.anew = {kind: self._anew(kind, edit) for kind in self.drafts}
            # What comes before the first step is known by now.
            session.config = _unconditioned(session.config)
            self.found.stepping = self._stepping(circuit, few)[0], full
        finally:
            session.config = config
        self._took("left", {"cpu": held_memory()})
        self.found.spared_tokens = sum(len(prompt) + len(own) for prompt, own in spared_texts(session))
        probed = [
            problem for problems in session.task.retention.values() for problem in spread(problems, PROBED)
        ]
        if probed:
            make_probe(session.model, probed, session.grader)
            self.found.probing = self._timed(
                "probe", lambda: make_probe(session.model, probed, session.grader)
            )[0] / len(probed)

    def _stepping(self, circuit: Circuit, pivots: list[Pivot]) -> tuple[float, TrainableRows]:
        """Seconds a step on ``pivots``, and the rows after the steps; also meters what comes before the first."""
        nothing, began = _NoValidation(), time.perf_counter()
        amplified = self._metered(
            "amplify", lambda: run_amplify(self.session, circuit, pivots, nothing, "rehearsal")
        )
        self.found.whitening = max(self.found.whitening, nothing.called - began)
        return (time.perf_counter() - nothing.called) / METERED_STEPS, amplified.trained

    def _anew(self, kind: str, edit: TrainableRows) -> float:
        """Share of the drafts' tokens that the edited model writes anew."""
        groups, before = self.drafts[kind], self.engine.generated_tokens
        with edit.written():
            for drafts, limit in groups:
                complete_drafts(self.engine, drafts, limit, self.session.grader.finished)
        tokens = sum(len(draft.completion.token_ids) for drafts, _ in groups for draft in drafts)
        return (self.engine.generated_tokens - before) / max(1, tokens)

    def _small_circuit(self) -> Circuit:
        anatomy = self.session.anatomy
        step = max(1, round(1 / LARGE))
        return Circuit.of((anatomy.component(index) for index in range(0, anatomy.size, step)), "rehearsal")

    def _timed(self, what: str, work: Callable[[], T]) -> tuple[float, T]:
        began = time.perf_counter()
        made = self._metered(what, work)
        return time.perf_counter() - began, made

    def _metered(self, what: str, work: Callable[[], T]) -> T:
        """Run ``work`` and keep the memory it took beside the model.

        What pieces before it left behind counts too: the process of a run holds that as well.
        """
        reset_peak_memory()
        made = work()
        self._took(what, peak_memory())
        return made

    def _took(self, what: str, sizes: Mapping[str, int]) -> None:
        known = self.found.piece_bytes.setdefault(what, {})
        for device, size in sizes.items():
            known[device] = max(0, size - self.found.base_bytes.get(device, 0), known.get(device, 0))


def _stand_ins(problem: Problem, trace: Trace, session: Session) -> Iterator[Pivot]:
    """Two places of a trace as if they were pivots."""
    prompt, tokens = session.grader.prompt_ids(problem), trace.token_ids
    for place in sorted({len(tokens) // 3, 2 * len(tokens) // 3}):
        if place < len(tokens):
            other = (tokens[place] + 1) % session.model.config.get_text_config().vocab_size
            yield Pivot(
                problem.id, problem.template, prompt, tokens[:place], tokens[place], other,
                greedy_right=True, method="stand-in", sample=0,
            )  # fmt: skip


def _shortened(config: Config) -> Config:
    """The configuration with no more epochs and steps than are metered."""
    few = {"steps": METERED_STEPS, "patience": METERED_STEPS + 1, "validate_at": (METERED_STEPS + 1,)}
    circuit = config.circuit.model_copy(update={"epochs": min(EPOCHS, config.circuit.epochs)})
    return config.model_copy(update={"amplify": config.amplify.model_copy(update=few), "circuit": circuit})


def _unconditioned(config: Config) -> Config:
    amplify = config.amplify.model_copy(update={"whitening": "none"})
    return config.model_copy(update={"amplify": amplify})
