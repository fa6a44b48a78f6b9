"""One model and seed, with everything that its arms share.

Traces and pivots are those of an ordinary run folder, made once and resumed from its files; circuits are kept by what
they depend on, so arms that differ in objective or optimiser alone share them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from cca.circuits.circuit import Circuit, load_circuit, random_circuit, random_circuit_by_layer, save_circuit
from cca.circuits.localisers import Site
from cca.circuits.settings import CircuitConfig, resolve_auto
from cca.compare.config import Arm, CompareConfig
from cca.compare.step_scores import StepScores
from cca.engines.engine import request_seed
from cca.errors import CcaError
from cca.evaluation.validation import AgainstBase
from cca.files import fingerprint, read_json, write_json
from cca.gradients.sampled_likelihood import Text
from cca.pivots.find import find_pivots, pair_traces
from cca.pivots.pivot import Pivot
from cca.pivots.traces import Trace, sample_traces
from cca.problems.task import spread
from cca.runs.config import Config
from cca.runs.open import OpenRun, open_run
from cca.runs.pipeline import make_pivots, make_traces

CONTROLS = {"random": random_circuit, "random-layers": random_circuit_by_layer}


@dataclass(frozen=True)
class Located:
    circuit: Circuit
    seconds: float
    """What locating took when it was done."""


class SharedWork:
    def __init__(self, config: CompareConfig, session: OpenRun) -> None:
        self.config, self.session = config, session
        self._sites: dict[str, Site] = {}
        self._pivots: dict[str, list[Pivot]] = {}
        """By the fingerprint of the method's settings."""

    @cached_property
    def step_scores(self) -> StepScores:
        with self.session.progress.work("the untouched model", None):
            return StepScores(self.session, self.config.limits)

    @cached_property
    def test_scores(self) -> AgainstBase:
        with self.session.progress.work("the untouched model on the test split", None):
            limits, session = self.config.limits, self.session
            task = replace(session.task, test=tuple(spread(session.task.test, limits.test)))
            return AgainstBase(
                session.model, session.answering, task, session.max_new_tokens, session.config.seed, session.note,
                limits.retention,
            )  # fmt: skip

    def prepare(self) -> None:
        """Measure the base, which must happen before anything touches the model."""
        self.step_scores  # noqa: B018
        if self.config.test:
            self.test_scores  # noqa: B018

    @property
    def texts(self) -> list[Text]:
        """The texts of other skills that localisers, whitening and anchors may be fitted to."""
        return self.session.retention_texts

    @cached_property
    def traces(self) -> list[list[Trace]]:
        return make_traces(self.session)

    def pivots(self, run: Config, arm: Arm) -> list[Pivot]:
        """The pivots of an arm: all that its method found, or a nested draw of them."""
        return self._drawn(self._found(run), arm)

    def _drawn(self, found: list[Pivot], arm: Arm) -> list[Pivot]:
        seed = self.session.config.seed
        if arm.balance:
            found = balanced(found, seed)
        return nested_draw(found, arm.pivots, seed)

    def fresh_pivots(self, run: Config, arm: Arm, number: int) -> list[Pivot]:
        """As `pivots`, but of the model as it stands in round ``number``; nothing is kept."""
        return self._drawn(self._trace_edited(run, number), arm)

    def circuit(self, run: Config, pivots: Sequence[Pivot]) -> Located:
        """The circuit of an arm, from its file when it was located before."""
        settings = self.settings(run)
        known = settings.model_dump(mode="json")
        made_from = fingerprint([known, run.amplify.rows, run.seed, [p.to_row() for p in pivots]])
        path = self.session.folder / "circuits" / f"{made_from}.jsonl"
        seconds = path.with_suffix(".json")
        if not seconds.exists():
            began = time.perf_counter()
            with self.session.progress.work(f"locating: {settings.localiser}", None):
                found = self._site(run, pivots).locate(settings)
            save_circuit(path, found, made_from=made_from)
            write_json(seconds, {"seconds": time.perf_counter() - began})
        return Located(load_circuit(path), float(read_json(seconds)["seconds"]))

    def control(self, kind: str, draw: int, like: Circuit) -> Circuit:
        """The ``draw``-th random circuit that copies ``like``'s size."""
        seed = request_seed(self.session.config.seed, kind, draw, like.fingerprint)
        return CONTROLS[kind](self.session.anatomy, like, torch.Generator().manual_seed(seed))

    def _site(self, run: Config, pivots: Sequence[Pivot]) -> Site:
        """One site for all arms on the same pivots: they share its prefix KV and gate gradient."""
        key = fingerprint([pivot.to_row() for pivot in pivots])
        if key not in self._sites:
            self._sites = {}  # prefix KV is large: keep those of one set of pivots
            self._sites[key] = self.new_site(run, pivots)
        return self._sites[key].with_rows(run.amplify.rows)

    def new_site(self, run: Config, pivots: Sequence[Pivot]) -> Site:
        """A site in the model as it stands."""
        model, anatomy = self.session.model, self.session.anatomy
        return Site(model, anatomy, pivots, self.texts, run.amplify.rows, run.seed)

    def settings(self, run: Config) -> CircuitConfig:
        return resolve_auto(run.circuit, bool(self.session.task.retention))

    def _found(self, run: Config) -> list[Pivot]:
        """The pivots of a method; another than the run's has a run folder of its own, which takes over the traces."""
        method = fingerprint(run.pivots.model_dump(mode="json"))
        if method not in self._pivots:
            self._pivots[method] = self._found_otherwise(run, method)
        return self._pivots[method]

    def _found_otherwise(self, run: Config, method: str) -> list[Pivot]:
        traces, own = self.traces, self.session.folder.path
        if run.pivots == self.session.config.pivots:
            return make_pivots(self.session, traces)
        out = own.with_name(f"{own.name}-{method[:8]}")
        wanted = self.session.config.model_copy(update={"pivots": run.pivots, "out": out})
        with open_run(wanted, self.session.progress, fork_of=own) as session:
            return make_pivots(session, make_traces(session))

    def _trace_edited(self, run: Config, number: int) -> list[Pivot]:
        """The branching pivots of a model that an earlier round edited, on the problems that the first round traced.

        ``number`` is the round: each samples again. Raises CcaError for pivots of another method.
        """
        if run.pivots.method != "branching":
            raise CcaError(
                f"rounds: expected pivots.method branching to trace the edited model, got {run.pivots.method}"
            )
        session, traced = self.session, {own[0].problem for own in self.traces}
        problems = [problem for problem in session.task.train if problem.id in traced]
        seed, longest = request_seed(run.seed, "round", number), session.max_new_tokens
        traces = sample_traces(problems, session.grader, session.engine, session.config.traces, longest, seed)
        single = run.pivots.model_copy(update={"per_problem": 1})
        pairs = pair_traces(problems, traces)
        found = find_pivots(pairs, session.grader, session.engine, single, longest, seed)
        return [pivot for own in found for pivot in own][: run.pivots.most]


def nested_draw(pivots: Sequence[Pivot], count: int | None, seed: int) -> list[Pivot]:
    """``count`` of the pivots in a random order that the seed fixes: smaller draws are part of larger ones."""
    if count is None:
        return list(pivots)
    generator = torch.Generator().manual_seed(request_seed(seed, "pivots"))
    order = torch.randperm(len(pivots), generator=generator).tolist()
    return [pivots[place] for place in sorted(order[:count])]


def balanced(pivots: Sequence[Pivot], seed: int) -> list[Pivot]:
    """As many pivots of problems that the greedy trace had right as of those it had wrong."""
    sides = [[p for p in pivots if p.greedy_right is right] for right in (True, False)]
    fewest = min(map(len, sides))
    chosen = {id(p) for side in sides for p in nested_draw(side, fewest, seed)}
    return [p for p in pivots if id(p) in chosen]
