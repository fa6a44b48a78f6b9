"""`cca plan`: what a run will take, stage by stage, before it starts; after it, how that compares with what it took.

The counts follow from the configuration and from rates of a rehearsal (`cca.runs.rehearsal`); times and memory from
what the rehearsal metered, scaled to those counts. How many steps amplify takes is not known beforehand: some two
fifths of those allowed are assumed, and the plan says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cca.errors import CcaError
from cca.files import Row, fingerprint, read_sealed, write_sealed
from cca.problems.sources import halves
from cca.runs.accounts import Account
from cca.runs.config import Config
from cca.runs.decoding_cost import Call, Work, expected_work
from cca.runs.directory import without_out
from cca.runs.narrator import Narrator
from cca.runs.plan_memory import memory_of, warnings
from cca.runs.provenance import hardware
from cca.runs.rehearsal import EPOCHS, Rehearsal, rehearsed

FILE, FORMAT = "plan.json", "cca.plan"
SECONDS = 20.0
"""How long a rehearsal may take."""
TAKEN = 0.42
"""Share of the steps allowed that is assumed: of 40, runs on eight models took 5 to 29, most of them 11 to 26."""


def make_plan(config: Config, narrator: Narrator, seconds: float = SECONDS) -> Row:
    """The plan of a run, also written to its folder. Raises CcaError for what a run would refuse."""
    with rehearsed(config, narrator, seconds) as found:
        plan = _Planning(found).plan()
    write_sealed(config.out / FILE, FORMAT, 1, plan)
    return plan


def read_plan(folder: Path, config: Mapping[str, Any]) -> Row | None:
    """The plan in a run folder, when it was made for this configuration."""
    if not (folder / FILE).exists():
        return None
    plan = read_sealed(folder / FILE, FORMAT, 1)
    return plan if plan.get("config") == fingerprint(config) else None


def held_against(plan: Row, accounts: Mapping[str, Account]) -> Row:
    """For every stage that ran: what was planned, what happened, and their ratio (happened / planned)."""
    compared: Row = {}
    try:
        for stage, planned in plan["stages"].items():
            happened = accounts.get(stage)
            if happened is None:
                continue
            keys = [key for key in planned if key in happened and (planned[key] or happened[key])]
            compared[stage] = {key: _held(planned[key], happened[key]) for key in keys}
        both = [stage for stage in plan["stages"] if stage in accounts]
        compared["total"] = {
            key: _held(sum(plan["stages"][s][key] for s in both), sum(accounts[s][key] for s in both))
            for key in ("seconds", "tokens")
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise CcaError(f"{FILE}: expected the stages of a plan, got {error!r}; make it again") from error
    return compared


def _held(planned: float, happened: float) -> Row:
    return {
        "planned": planned,
        "happened": happened,
        "ratio": round(happened / planned, 3) if planned else None,
    }


class _Planning:
    def __init__(self, found: Rehearsal) -> None:
        self.found, self.session, self.config = found, found.session, found.session.config
        self.batch = self.config.traces.batch_size
        task = self.session.task
        self.train, self.guards, self.reported = len(task.train), {}, {}
        for name, problems in task.retention.items():
            self.guards[name], self.reported[name] = (len(half) for half in halves(problems))
        self.pairs = self.train * (found.pairs or 0.5) / found.problems
        self.pivots = self.pairs * (found.found or 0.5) / (found.pairs or 1)
        if self.config.pivots.most is not None:
            self.pivots = min(self.pivots, self.config.pivots.most)

    def plan(self) -> Row:
        steps = self._steps()
        stages = {
            "traces": self._stage(self._traces(), beside=self.train * self.found.beside),
            "pivots": self._stage(self._walks(), beside=self.pairs * self.found.reading),
            "circuit": self._circuit(),
            "amplify": self._amplify(steps, first=True),
            "evaluate": self._stage(self._tests().times(2), beside=3 * self._probing(self.reported)),
        }
        if draws := self.config.evaluate.random_controls:
            control = self._amplify(steps, first=False)
            test = self._stage(self._tests(), beside=self._probing(self.reported))
            stages["controls"] = {key: draws * (control[key] + test[key]) for key in control}
        memory = memory_of(self.found, self.pivots, self.guards, self.reported)
        for stage, own in stages.items():
            own.update(memory[stage])
        task = self.session.task
        return {
            "config": fingerprint(without_out(self.config)),
            "hardware": hardware(),
            "problems": {"train": self.train, "validation": len(task.validation), "test": len(task.test)}
            | {name: len(problems) for name, problems in task.retention.items()},
            "sample": {"problems": self.found.problems, "greedy_accuracy": self.found.right},
            "expected": {"pairs": round(self.pairs), "pivots": round(self.pivots), "steps": steps},
            "at_most": {"steps": self.config.amplify.steps, "seconds": self._at_most(stages, steps)},
            "stages": {stage: _rounded(own) for stage, own in stages.items()},
            "prefix_bytes": memory["prefixes"]["bytes"],
            "warnings": self._warnings(memory),
        }

    def _stage(self, work: Work, beside: float = 0.0) -> Row:
        """Tokens, seconds and floating point operations (2 a parameter and token read or written)."""
        flops = 2.0 * self.session.anatomy.total_parameters * (work.tokens + work.prompt_tokens)
        return {"tokens": work.tokens, "seconds": self.found.speed.seconds(work) + beside, "flops": flops}

    def _traces(self) -> Work:
        """Greedy traces and the rounds of samples, in the shares that the sample's problems needed."""
        return self._calls(self.found.traced, self.train, self.found.problems)

    def _walks(self) -> Work:
        return self._calls(self.found.walked, self.pairs, max(1, self.found.pairs))

    def _calls(self, calls: Sequence[Call], count: float, sampled: int) -> Work:
        """What ``calls`` on ``sampled`` items come to on ``count`` of them, taken in chunks."""
        chunk = self.config.traces.chunk
        sizes = [chunk] * int(count // chunk) + ([count % chunk] if count % chunk else [])
        whole = Work()
        for call in calls:
            prompt = call.work.prompt_tokens / call.work.requests
            for size in sizes:
                whole += expected_work(size * call.work.requests / sampled, call.lengths, prompt, self.batch)
        return whole

    def _greedy(self, count: int, like: Call | None = None) -> Work:
        """Greedy answers to ``count`` problems like those of the call (the training sample's greedy traces)."""
        call = like or self.found.traced[0]
        return self._calls([call], count, round(call.work.requests))

    def _retained(self, sizes: Mapping[str, int]) -> Work:
        return sum((self._greedy(size, self.found.retention[name]) for name, size in sizes.items()), Work())

    def _tests(self) -> Work:
        return self._greedy(len(self.session.task.test)) + self._retained(self.reported)

    def _validations(self) -> Work:
        return self._greedy(len(self.session.task.validation)) + self._retained(self.guards)

    def _probing(self, sizes: Mapping[str, int]) -> float:
        return self.found.probing * sum(sizes.values())

    def _circuit(self) -> Row:
        """Prefixes of the pivots once, then a forward and backward pass of one token a pivot, each epoch of a mask."""
        epochs = self.config.circuit.epochs if self.config.circuit.localiser == "dcm" else 1
        stage = self._stage(Work(prompt_tokens=self.pivots * (self.found.pivot_tokens + 3 * epochs)))
        return {**stage, "seconds": self._line(self.found.locating) * epochs / min(EPOCHS, epochs)}

    def _line(self, seconds: tuple[float, float]) -> float:
        """Seconds at as many pivots as are expected, on the line through two measurements."""
        half, full = max(1, self.found.pivots // 2), self.found.pivots
        slope = max(0.0, (seconds[1] - seconds[0]) / max(1, full - half))
        return max(min(seconds), seconds[1] + slope * (self.pivots - full))

    def _amplify(self, steps: int, first: bool) -> Row:
        """``first``: with the validation of the untouched model, which later arms find done."""
        validated = self._validated(steps)
        work = self._validations().times(validated + first)
        probing = (validated + 1 + first) * self._probing(self.guards)
        stage = self._stage(work, beside=steps * self._line(self.found.stepping) + probing)
        read = 3 * 2.0 * self.session.anatomy.total_parameters * self.pivots * self.found.pivot_tokens
        stage["flops"] += steps * read
        return stage

    def _steps(self) -> int:
        """Two fifths of those allowed, and never fewer than patience lets pass (see `TAKEN`)."""
        allowed, patience = self.config.amplify.steps, self.config.amplify.patience
        return min(allowed, max(patience + 1, round(TAKEN * allowed)))

    def _validated(self, steps: int) -> int:
        at = self.config.amplify.validate_at
        return sum(step <= steps for step in at) if at else steps

    def _at_most(self, stages: Mapping[str, Row], steps: int) -> int:
        extra = sum(
            self._amplify(self.config.amplify.steps, first)["seconds"]
            - self._amplify(steps, first)["seconds"]
            for first in [True, *[False] * self.config.evaluate.random_controls]
        )
        return round(sum(stage["seconds"] for stage in stages.values()) + extra)

    def _warnings(self, memory: Row) -> list[str]:
        found, told = self.found, warnings(self.session, memory)
        if self.config.engine in ("vllm", "ray"):
            told.append(f"text was generated with engine hf; with {self.config.engine} it takes another time")
        if not found.pairs:
            told.append(
                f"none of {found.problems} sampled problems has traces of both verdicts: there may be nothing to "
                f"pair (greedy accuracy {found.right:.0%}); try more traces.samples or another task"
            )
        return told


def _rounded(stage: Row) -> Row:
    return {key: round(value, 2) if key == "seconds" else round(value) for key, value in stage.items()}
