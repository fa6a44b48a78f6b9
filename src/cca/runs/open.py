"""Opening a run folder: a new one, one to resume, or a fork that takes over the stages that are still valid."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from cca import distributed
from cca.circuits.settings import CircuitConfig, resolve_auto
from cca.engines.decoding import context_length
from cca.engines.engine import Engine
from cca.engines.weight_sync import WeightWatch
from cca.errors import CcaError
from cca.evaluation.answers import Answering
from cca.evaluation.retention import RULE, retention_texts
from cca.files import fingerprint
from cca.gradients.sampled_likelihood import Text
from cca.models.anatomy.anatomy import Anatomy, anatomy_of
from cca.models.anatomy.declarations import read_declaration
from cca.models.forward.gates import check_gates
from cca.models.loading import LoadedModel, choose_device, embedding_rows, load_model
from cca.patches.layout import merge_objection
from cca.pivots.traces import Grader, longest_completion
from cca.problems.problem import problems_fingerprint
from cca.problems.sources import open_task
from cca.problems.task import Task, check_answers, check_prompts, overlaps, task_judge, with_retention
from cca.runs.config import Config
from cca.runs.costs import Costs
from cca.runs.folder.provenance import facts_of, tokenizer_fingerprint
from cca.runs.folder.row_log import Measurements
from cca.runs.folder.run_folder import RunFolder, without_out
from cca.runs.folder.stage_files import STAGES, StageFiles, content_hash, hash_inputs, take_over
from cca.runs.interrupts import Interrupts
from cca.runs.progress import LoggedProgress, NoProgress, RunProgress
from cca.runs.replica import receive_folder, replica_folder, send_folder
from cca.runs.said_first import NO_RETENTION, first_day, note_on_begin, say_what_changed
from cca.runs.stages.engine import make_engine
from cca.runs.trackers import Track, track_nothing, tracking
from cca.tinymath import BUNDLED_MODEL


@dataclass
class OpenRun:
    """An open run folder with the model, task and engine of its configuration, each loaded on first use.

    The pipeline hands its parts to the stages; no stage gets it whole.
    """

    config: Config
    folder: RunFolder
    progress: RunProgress
    interrupts: Interrupts = field(default_factory=Interrupts)
    track: Track = track_nothing
    """Logs numbers to the experiment trackers."""
    first_day: date | None = None
    """For chat templates that write the day: that of a run is the one it began with."""
    is_new: bool = False
    """True when the run begins with this opening."""

    @cached_property
    def device(self) -> str:
        """The model's device, or how device_map spreads it. Raises CcaError for a device that is not there."""
        spread = self.config.device_map
        if spread and distributed.size() > 1:
            raise CcaError(
                f"device_map: expected none among several processes, each on its device, got {spread!r}; "
                "leave it out, or start one process"
            )
        return f"device_map {spread}" if spread else choose_device(self.config.device)

    @cached_property
    def loaded(self) -> LoadedModel:
        config = self.config
        name = str(BUNDLED_MODEL) if config.model == "tinymath" else config.model
        with self.progress.work(f"loading {config.model}", None):
            loaded = load_model(
                name, config.revision, config.dtype, config.device_map or self.device, config.trust_remote_code,
                config.attn_implementation, config.sharding,
            )  # fmt: skip
        if loaded.model.get_output_embeddings() is None:
            raise CcaError(f"model {config.model}: expected a causal language model, got one without an output layer")
        return loaded

    @property
    def model(self) -> PreTrainedModel:
        return self.loaded.model

    @cached_property
    def watch(self) -> WeightWatch:
        """Knows which weights were written since it was made; made before the first edit."""
        return WeightWatch(self.model)

    @cached_property
    def anatomy(self) -> Anatomy:
        """The places of the model's heads and neurons, checked on the model itself with a few tokens."""
        found = anatomy_of(self.model, self._declared)
        check_gates(self.model, found)
        return found

    @cached_property
    def _declared(self) -> Any:
        given = self.config.anatomy
        return read_declaration(Path(given)) if isinstance(given, str) else given

    @property
    def task(self) -> Task:
        """The task with its retention sets; the judge can read every gold answer, the model every prompt."""
        return self._task_and_grader[0]

    @property
    def grader(self) -> Grader:
        return self._task_and_grader[1]

    @cached_property
    def _task_and_grader(self) -> tuple[Task, Grader]:
        config, codec = self.config, self.loaded.codec
        task = open_task(
            config.task, config.seed, tokenizer=codec.tokenizer, allow_code=config.allow_code, today=self.first_day
        )  # fmt: skip
        task = with_retention(task, config.retention)
        grader = Grader(codec, task_judge(task, config.judge, allow_code=config.allow_code))
        check_answers(task, grader.judge)
        check_prompts(task, grader.prompt_ids, context_length(self.model), embedding_rows(self.model))
        return task, grader

    @cached_property
    def notes(self) -> list[str]:
        """What is known of the results before anything is made. Every process of a sharded model must ask for it."""
        begin = note_on_begin(self.model, self.grader, self.task.train) if self.is_new else None
        unmeasured = None if self.task.retention else NO_RETENTION
        return [*self.config.notes, *overlaps(self.task), *(note for note in (unmeasured, begin) if note)]

    @cached_property
    def engine(self) -> Engine:
        return make_engine(self.config, self.loaded, self.watch, self.note, self.progress.say)

    @cached_property
    def max_new_tokens(self) -> int:
        """Longest completion: as configured, else by `longest_completion`."""
        return self.config.traces.max_new_tokens or longest_completion(
            [*self.task.train, *self.task.validation], self.grader.codec, context_length(self.model)
        )

    @property
    def circuit_settings(self) -> CircuitConfig:
        return resolve_auto(self.config.circuit, bool(self.task.retention))

    @cached_property
    def retention_texts(self) -> list[Text]:
        """The texts of other skills that circuits and steps may be fitted to."""
        return retention_texts(self.task.retention, self.grader)

    @cached_property
    def answering(self) -> Answering:
        """Verdicts on greedy answers, kept in the run folder."""
        known = self.fingerprints
        parts = (known["model"], known["tokenizer"], self.config.judge, known["judging"])
        store = Measurements(self.folder.path, self.chunk_done)
        return Answering(self.engine, self.grader, store, parts, self.config.traces.chunk)

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """The fingerprints of model, tokenizer and each part of the data: a run folder is bound to them."""
        task = self.task
        data = {"train": task.train, "validation": task.validation, "test": task.test}
        return {
            "model": self.loaded.fingerprint,
            "tokenizer": tokenizer_fingerprint(self.loaded.codec.tokenizer),
            "task": task.fingerprint,
            "judging": task.asking,
            **{name: problems_fingerprint(problems) for name, problems in data.items()},
            "retention": fingerprint({name: problems_fingerprint(own) for name, own in task.retention.items()}),
        }

    @cached_property
    def inputs(self) -> dict[str, Any]:
        """What stages depend on apart from the configuration and earlier files (`stage_files.Stage.inputs`)."""
        given: Path | None = self.config.circuit.file
        circuit_file = content_hash(given) if given is not None and given.is_file() else None
        more = {"max_new_tokens": self.max_new_tokens, "circuit_file": circuit_file, "anatomy": self._declared}
        known = dict(self.fingerprints)
        if self.task.retention:
            # which problems are fitted to, guard and are reported: another rule, another hash
            known["retention"] = fingerprint([known["retention"], RULE])
        return {**known, **more}

    def hash_inputs(self, stage: str) -> str:
        """The ``made_from`` of a stage; the files of the stages before it must be there."""
        return hash_inputs(STAGES[stage], self.config, self.inputs, self.folder.path)

    def files(self, stage: str) -> StageFiles:
        """The stage's part of the run folder; the stages before it must be done."""
        return StageFiles(
            STAGES[stage], self.folder.path, self.hash_inputs(stage), self.costs, self.progress, self.track,
            self.chunk_done, self.note,
        )  # fmt: skip

    @cached_property
    def costs(self) -> Costs:
        return Costs(self.folder.path, self.generated_tokens)

    def generated_tokens(self) -> int:
        """Tokens generated by this process so far."""
        return self.engine.generated_tokens if self._has_engine else 0

    @property
    def _has_engine(self) -> bool:
        return "engine" in self.__dict__

    def chunk_done(self) -> None:
        """Save the costs: all work so far is on disk. Raises Stopped where the run was asked to stop."""
        self.costs.save()
        self.interrupts.check()

    def note(self, text: str) -> None:
        """Show, and keep in the manifest, what readers of the results should know."""
        self.progress.say(text)
        self.folder.note(text)

    def close(self) -> None:
        """End the processes of the engine, if it has any."""
        if self._has_engine:
            self.engine.close()


@contextmanager
def open_run(config: Config, progress: RunProgress, fork_of: Path | None = None) -> Iterator[OpenRun]:
    """Lock the run folder, check that it is this run's, and load what every run needs.

    ``fork_of`` is a run folder whose valid stages the new folder takes over.
    Of several processes only the first opens it; the others work in a replica (`cca.runs.replica`).
    Raises CcaError for a folder in use or of another run, and for a model or task that cannot be used.
    """
    if not distributed.is_main():
        with _open_replica(config) as run:
            yield run
        return
    if fork_of is not None:
        _check_fork(fork_of, config.out)
    RunFolder(config.out).check_new()  # before anything is written there, the lock included
    with RunFolder(config.out) as folder, Interrupts() as interrupts:
        if folder.begun:
            folder.check_config(config)  # the cheap check first: no model is loaded for it
        folder.remove_leftovers()
        logged = LoggedProgress(folder.path, progress)
        run = OpenRun(config, folder, logged, interrupts, track_nothing, first_day(folder, fork_of), not folder.begun)
        distributed.broadcast_bytes(f"{run.first_day} {'new' if run.is_new else ''}".encode())
        several = f", the first of {distributed.size()} processes" if distributed.size() > 1 else ""
        logged.tokens = run.generated_tokens
        logged.say(f"device: {run.device}{several}")
        say_what_changed(folder, logged, run.device)
        if distributed.size() == 1:
            _ = run.watch  # before anything is written into the model
        _ = run.anatomy, run.notes  # refuses a model and problems it cannot read before anything is made
        if run.is_new:
            _begin(run, fork_of)
        else:
            folder.check_fingerprints(run.fingerprints)
        for text in run.notes:
            run.note(text)
        interrupts.check()
        if fork_of is not None:
            copied = take_over(fork_of, folder.path, run.hash_inputs)
            logged.say(f"taken over from {fork_of}: {', '.join(copied) or 'no stage, all depend on what changed'}")
        send_folder(folder.path)
        try:
            with tracking(config.trackers, folder.path, without_out(config)) as run.track:
                try:
                    yield run
                finally:
                    run.close()
        except BaseException as error:
            logged.log(f"stopped: {type(error).__name__}: {error}")
            raise


@contextmanager
def _open_replica(config: Config) -> Iterator[OpenRun]:
    with replica_folder() as folder, Interrupts() as interrupts:
        run = OpenRun(config.model_copy(update={"out": folder.path}), folder, NoProgress(), interrupts)
        day, _, new = distributed.broadcast_bytes(b"").decode().partition(" ")
        run.first_day, run.is_new = date.fromisoformat(day), bool(new)
        # as the first process does: a sharded model's forward passes are those of all processes
        _ = run.anatomy, run.notes
        fingerprints = run.fingerprints
        interrupts.check()
        receive_folder(folder, fingerprints)
        yield run


def _begin(run: OpenRun, fork_of: Path | None) -> None:
    """Write the manifest, the notes of the start included: they are not made again when the run is resumed."""
    source = run.loaded.folder
    if source is not None and (reason := merge_objection(source, run.model)):
        run.notes.insert(0, f"the patch of this run will not merge into the model's own folder: {reason}")
    more = facts_of(run.task, run.grader, run.loaded.commit)
    more |= {"notes": run.notes} if run.notes else {}
    more |= {} if fork_of is None else {"forked_from": str(fork_of)}
    run.folder.begin(run.config, run.fingerprints, run.device, **more)


def _check_fork(source: Path, target: Path) -> None:
    RunFolder(source).manifest()  # raises for a folder that is no run's
    if source.resolve() == target.resolve():
        raise CcaError(f"--fork {target}: expected another folder than the run's own 'out', got the same")
