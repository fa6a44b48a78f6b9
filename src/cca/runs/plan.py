"""`cca plan`: what a run will take, stage by stage, before it starts; after it, how that compares with what it took.

The counts follow from the configuration and from rates of a rehearsal (`cca.runs.rehearsal`); times and memory from
what the rehearsal metered, scaled to those counts. How many steps amplify takes is not known beforehand: the plan
says how many it expects and what each costs, and is held against the run both as it stands and for the steps taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cca.circuits.natural import layer_groups
from cca.circuits.settings import resolve_auto
from cca.errors import CcaError
from cca.files import Row, fingerprint, read_sealed, write_sealed
from cca.gradients.fisher import SAMPLES
from cca.models.anatomy.components import KINDS
from cca.runs.config.config import Config
from cca.runs.decoding_cost import Work
from cca.runs.findings import Rehearsal
from cca.runs.folder.provenance import hardware
from cca.runs.folder.run_folder import without_out
from cca.runs.plan_memory import memory_of, warnings
from cca.runs.plan_work import Works
from cca.runs.progress.costs import Account
from cca.runs.progress.narrator import Narrator
from cca.runs.rehearsal import EPOCHS, rehearsed

FILE, FORMAT = "plan.json", "cca.plan"
SECONDS = 20.0
"""How long a rehearsal may take."""
TO_BEST = {"amplify": 8, "controls": 6}
"""Validated steps until the best one, which patience follows: the middle of seven runs on five models (4 to 9) and of
their controls (0 to 13)."""
BREAKING, TO_BEST_BREAKING = 0.5, 1
"""Where two steps make a model write more than such a share of its answers anew, they break it, and the best step is
none or one of the first (0 and 2 of a random model's patch and control, 0 of a control that broke a trained one)."""
PER_STEP = ("seconds", "tokens")


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


def held_against(plan: Row, accounts: Mapping[str, Account], steps: Mapping[str, int]) -> Row:
    """For every stage that ran: what was planned, what happened, and their ratio (happened / planned).

    ``steps``: those that amplify and controls took. ``seconds_for_steps`` and ``tokens_for_steps`` hold the plan for
    as many steps against the run: what is left is what could be known beforehand.
    """
    compared: Row = {}
    totals = {key: [0.0, 0.0] for name in PER_STEP for key in (name, f"{name}_for_steps")}
    try:
        for stage, planned in plan["stages"].items():
            happened = accounts.get(stage)
            if happened is None:
                continue
            keys = [key for key in planned if key in happened and (planned[key] or happened[key])]
            own = compared[stage] = {key: _held(planned[key], happened[key]) for key in keys}
            known = stage in steps and "each" in planned
            if known:
                own["steps"] = _held(planned["steps"], steps[stage])
            for name in PER_STEP:
                for_steps = planned[name]
                if known:
                    for_steps += (steps[stage] - planned["steps"]) * planned["each"][name]
                    own[f"{name}_for_steps"] = _held(round(for_steps, 2), happened[name])
                for key, foreseen in ((name, planned[name]), (f"{name}_for_steps", for_steps)):
                    totals[key][0] += foreseen
                    totals[key][1] += happened[name]
    except (KeyError, TypeError, AttributeError) as error:
        raise CcaError(f"{FILE}: expected the stages of a plan, got {error!r}; make it again") from error
    compared["total"] = {key: _held(*pair) for key, pair in totals.items()}
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
        self.works = Works(found)

    def plan(self) -> Row:
        works, probing = self.works, self._probing(self.works.reported)
        steps = {stage: self._steps(stage) for stage in TO_BEST}
        stages = {
            "traces": self._stage(works.traces(), beside=works.train * self.found.beside),
            "pivots": self._stage(works.walks(), beside=works.pairs * self.found.reading),
            "circuit": self._circuit(),
            "amplify": self._amplify(steps["amplify"], works.base_validation()),
            "evaluate": self._stage(works.base_tests() + works.edited_tests(), beside=3 * probing),
        }
        if draws := self.config.evaluate.random_controls:
            control = self._amplify(steps["controls"], Work())
            test = self._stage(works.edited_tests(), beside=probing)
            own = {key: draws * (control[key] + test[key]) for key in test}
            stages["controls"] = {**control, **own, "steps": draws * control["steps"]}
        memory = memory_of(self.found, works.pivots, works.guards, works.reported)
        for stage, own in stages.items():
            own.update(memory[stage])
        task = self.session.task
        return {
            "config": fingerprint(without_out(self.config)),
            "hardware": hardware(self.session.device),
            "problems": {"train": works.train, "validation": len(task.validation), "test": len(task.test)}
            | {name: len(problems) for name, problems in task.retention.items()},
            "sample": {"problems": self.found.problems, "greedy_accuracy": self.found.right},
            "expected": {"pairs": round(works.pairs), "pivots": round(works.pivots), "steps": steps},
            "at_most": {"steps": self.config.amplify.steps, "seconds": self._at_most(stages)},
            "stages": {stage: _rounded(own) for stage, own in stages.items()},
            "prefix_bytes": memory["prefixes"]["bytes"],
            "warnings": self._warnings(memory),
        }

    def _stage(self, work: Work, beside: float = 0.0) -> Row:
        """Tokens, seconds and floating point operations (2 a parameter and token read or written)."""
        flops = 2.0 * self.session.anatomy.total_parameters * (work.tokens + work.prompt_tokens + work.read)
        return {"tokens": work.tokens, "seconds": self.found.speed.seconds(work) + beside, "flops": flops}

    def _probing(self, sizes: Mapping[str, int]) -> float:
        return self.found.probing * sum(sizes.values())

    def _circuit(self) -> Row:
        """Prefixes of the pivots once, then a forward and backward pass of one token a pivot, each epoch of a mask;
        for the natural circuit what a step takes and the Fisher information, once a group of layers."""
        config, anatomy = self.config, self.session.anatomy
        circuit = resolve_auto(config.circuit, bool(self.session.task.retention))
        epochs = circuit.epochs if circuit.localiser == "dcm" else 1
        pivots = self.works.pivots
        read = pivots * (self.found.pivot_tokens + 3 * epochs)
        if "natural" in circuit.localiser.split():
            groups = len(list(layer_groups(anatomy, circuit.kinds or KINDS, config.amplify.rows)))
            read += 2 * groups * (pivots * self.found.pivot_tokens + SAMPLES * self.found.spared_tokens)
        stage = self._stage(Work(prompt_tokens=read))
        return {**stage, "seconds": self._line(self.found.locating) * epochs / min(EPOCHS, epochs)}

    def _line(self, seconds: tuple[float, float]) -> float:
        """Seconds at as many pivots as are expected, on the line through two measurements."""
        few, full = self.found.few, self.found.pivots
        slope = max(0.0, (seconds[1] - seconds[0]) / max(1, full - few))
        return max(min(seconds), seconds[1] + slope * (self.works.pivots - full))

    def _amplify(self, steps: int, base: Work) -> Row:
        """``base``: what judging the untouched model takes, which later arms find done.

        ``each`` is what one step more or less costs.
        """
        parameters, config = self.session.anatomy.total_parameters, self.config.amplify
        whitened = config.whitening != "none" and config.optimiser == "gradient-descent"
        judging = self._probing(self.works.guards) / 2
        judged = self._stage(self.works.edited_validation(), beside=judging)
        stepped = {
            "tokens": 0.0,
            "seconds": self._line(self.found.stepping),
            "flops": 2 * 2.0 * parameters * self.works.pivots * self.found.pivot_tokens,
        }
        once = self._stage(base, beside=self.found.whitening + 2 * judging)
        once["flops"] += 2 * SAMPLES * 2.0 * parameters * self.found.spared_tokens * whitened
        validated = self._validated(steps)
        row: Row = {key: once[key] + steps * stepped[key] + validated * judged[key] for key in once}
        each = {key: stepped[key] + validated / steps * judged[key] for key in PER_STEP}
        return {**row, "steps": steps, "each": each}

    def _steps(self, stage: str) -> int:
        """Those until the best one, and as many validations without a better one as patience takes."""
        config = self.config.amplify
        at = [step for step in config.validate_at if step <= config.steps] or range(1, config.steps + 1)
        breaks = self.found.anew.get("task", 0.0) > BREAKING
        best = TO_BEST_BREAKING if breaks else TO_BEST[stage]
        return at[min(len(at), best + config.patience) - 1]

    def _validated(self, steps: int) -> int:
        at = self.config.amplify.validate_at
        return sum(step <= steps for step in at) if at else steps

    def _at_most(self, stages: Mapping[str, Row]) -> int:
        """Seconds with every step that is allowed."""
        seconds = sum(stage["seconds"] for stage in stages.values())
        draws = self.config.evaluate.random_controls
        for stage, times in (("amplify", 1), ("controls", draws)):
            if times:
                own = stages[stage]
                seconds += (times * self.config.amplify.steps - own["steps"]) * own["each"]["seconds"]
        return round(seconds)

    def _warnings(self, memory: Row) -> list[str]:
        found, told = self.found, warnings(self.session, memory)
        if self.works.engine != "hf":
            told.append(f"text was generated with engine hf; with {self.works.engine} it takes another time")
        if not found.pairs:
            told.append(
                f"none of {found.problems} sampled problems has traces of both verdicts: there may be nothing to "
                f"pair (greedy accuracy {found.right:.0%}); try more traces.samples or another task"
            )
        return told


def _rounded(stage: Row) -> Row:
    return {
        key: _rounded(value)
        if isinstance(value, dict)
        else (round(value, 2) if key == "seconds" else round(value))
        for key, value in stage.items()
    }
