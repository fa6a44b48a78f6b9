"""What the stages of one run share: folder, configuration, and the model, task and engine, loaded on first use."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from cca import distributed
from cca.engines.distributed import RankedEngine
from cca.engines.engine import Engine
from cca.engines.hf import HFEngine, context_length
from cca.engines.weight_sync import WeightWatch
from cca.errors import CcaError
from cca.evaluation.answers import BaseAnswers
from cca.files import fingerprint
from cca.models.anatomy.anatomy import Anatomy, anatomy_of
from cca.models.anatomy.declarations import read_declaration
from cca.models.forward.gates import check_gates
from cca.models.loading import LoadedModel, choose_device, load_model
from cca.pivots.grader import Grader
from cca.problems.judges.judge import Judge
from cca.problems.problem import problems_fingerprint
from cca.problems.sources import open_task
from cca.problems.task import Task, check_answers, task_judge, with_retention
from cca.runs.config.config import Config
from cca.runs.folder.measurements import Measurements
from cca.runs.folder.provenance import tokenizer_fingerprint
from cca.runs.folder.run_folder import RunDirectory
from cca.runs.folder.stage_inputs import STAGES, content_hash, made_from
from cca.runs.progress.costs import Accounts
from cca.runs.progress.interrupts import Interrupts
from cca.runs.progress.narrator import Narrator
from cca.runs.progress.trackers import Track, track_nothing
from cca.runs.stages.engine import make_engine
from cca.tinymath import BUNDLED_MODEL

DEFAULT_NEW_TOKENS = 512


@dataclass
class Session:
    """Open with `cca.runs.open.open_session`; stages take it as their one argument."""

    config: Config
    folder: RunDirectory
    narrator: Narrator
    interrupts: Interrupts = field(default_factory=Interrupts)
    track: Track = track_nothing
    """Tells the experiment trackers."""
    base_answers: dict[str, BaseAnswers] = field(default_factory=dict)
    """What the base was asked so far (`cca.evaluation.answers`)."""

    @cached_property
    def task(self) -> Task:
        """The task with its retention sets; every gold answer is readable by the judge."""
        config, tokenizer = self.config, self.loaded.codec.tokenizer
        task = open_task(config.task, config.seed, tokenizer=tokenizer, allow_code=config.allow_code)
        task = with_retention(task, config.retention)
        check_answers(task, self._judge(task))
        return task

    def _judge(self, task: Task) -> Judge:
        return task_judge(task, self.config.judge, allow_code=self.config.allow_code)

    @cached_property
    def device(self) -> str:
        """Where the model is: a device, or device_map and how it spreads it. Raises CcaError where it cannot be."""
        spread = self.config.device_map
        if spread and distributed.size() > 1:
            raise CcaError(
                f"device_map: expected none among several processes, each on its device, got {spread!r}; "
                "leave it out, or start one process"
            )
        return f"device_map {spread}" if spread else choose_device(self.config.device)

    def say_device(self) -> None:
        several = f", the first of {distributed.size()} processes" if distributed.size() > 1 else ""
        self.narrator.say(f"device: {self.device}{several}")

    @cached_property
    def loaded(self) -> LoadedModel:
        config = self.config
        name = str(BUNDLED_MODEL) if config.model == "tinymath" else config.model
        with self.narrator.work(f"loading {config.model}", None):
            return load_model(
                name,
                config.revision,
                config.dtype,
                config.device_map or self.device,
                config.trust_remote_code,
                config.attn_implementation,
                config.sharding,
            )

    @property
    def model(self) -> PreTrainedModel:
        return self.loaded.model

    @cached_property
    def grader(self) -> Grader:
        return Grader(self.loaded.codec, self._judge(self.task))

    @cached_property
    def engine(self) -> Engine:
        # a sharded model is one that all processes run together: they decode the same batches side by side
        if distributed.size() == 1:
            return make_engine(self.config, self.loaded, self.watch, self.note, self.narrator.say)
        if self.config.engine not in ("auto", "hf"):
            raise CcaError(
                f"engine: {self.config.engine} runs beside one process, not under a launcher of several; set engine: hf"
            )
        kind = HFEngine if self.config.sharding == "fsdp" else RankedEngine
        return kind(self.model, self.config.traces.batch_size, self.note)

    @cached_property
    def watch(self) -> WeightWatch:
        """Knows what was written into the model since it was loaded."""
        return WeightWatch(self.model)

    @cached_property
    def anatomy(self) -> Anatomy:
        """Where the model's heads and neurons are; checked on the model itself, with a few tokens."""
        found = anatomy_of(self.model, self._declared)
        check_gates(self.model, found)
        return found

    @cached_property
    def _declared(self) -> Mapping[str, Any] | None:
        """The anatomy as the configuration declares it, or the file that it names."""
        given = self.config.anatomy
        return read_declaration(Path(given)) if isinstance(given, str) else given

    @cached_property
    def max_new_tokens(self) -> int:
        """Longest completion: as configured, else twice the longest worked solution there is."""
        if self.config.traces.max_new_tokens:
            return self.config.traces.max_new_tokens
        problems = [*self.task.train, *self.task.validation]
        lengths = [len(self.grader.codec.encode_continuation(p.solution)) for p in problems if p.solution]
        most = context_length(self.model) - 1
        return min(most, 2 * max(lengths) + 8 if lengths else DEFAULT_NEW_TOKENS)

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """Of the model, the tokenizer and each part of the data: what a run is bound to."""
        task = self.task
        data = {"train": task.train, "validation": task.validation, "test": task.test}
        return {
            "model": self.loaded.fingerprint,
            "tokenizer": tokenizer_fingerprint(self.loaded.codec.tokenizer),
            "task": task.fingerprint,
            "judging": task.asking,
            **{name: problems_fingerprint(problems) for name, problems in data.items()},
            "retention": fingerprint(
                {name: problems_fingerprint(own) for name, own in task.retention.items()}
            ),
        }

    def made_from(self, stage: str) -> str:
        """The hash of all that ``stage`` depends on; its file must say the same (`cca.runs.folder.stage_inputs`)."""
        return made_from(STAGES[stage], self.config, self._inputs, self.folder.path)

    @property
    def _inputs(self) -> dict[str, Any]:
        given: Path | None = self.config.circuit.file
        circuit_file = content_hash(given) if given is not None and given.is_file() else None
        inputs = {"max_new_tokens": self.max_new_tokens, "circuit_file": circuit_file}
        return {**self.fingerprints, **inputs, "anatomy": self._declared}

    @cached_property
    def measurements(self) -> Measurements:
        return Measurements(self.folder.path)

    @cached_property
    def accounts(self) -> Accounts:
        return Accounts(self.folder.path, lambda: self.engine.generated_tokens if self._has_engine else 0)

    @property
    def _has_engine(self) -> bool:
        return "engine" in self.__dict__

    def close(self) -> None:
        """End the processes of the engine, if it has any."""
        if self._has_engine:
            self.engine.close()

    def timed(self, stage: str) -> AbstractContextManager[None]:
        """Add what the block takes to the stage's account."""
        return self.accounts.timed(stage)

    def chunk_done(self) -> None:
        """Tell that all work so far is on disk. Raises Stopped where a stop was asked for."""
        self.accounts.save()
        self.interrupts.check()

    def note(self, text: str) -> None:
        """Tell, and keep in the manifest, what bears on how the results are to be read."""
        self.narrator.say(text)
        self.folder.note(text)
